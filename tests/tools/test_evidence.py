"""The records and the table of an experiment, by hand."""

import json

import evidence_cifar10
import evidence_table
import pytest

from support.runs import ROOT, user_error


def make_run(folder, method, seed, error, *, epochs=60, label_smoothing=0.0, num_examples=10_000):
    folder.mkdir()
    config = {"method": method, "seed": seed, "epochs": epochs, "loss": {"label_smoothing": label_smoothing}}
    (folder / "config.json").write_text(json.dumps({"config": config}))
    main = {"top1_error": error, "nll": 1.0, "ece": 0.5}
    result = {"num_examples": num_examples, "classifiers": {"main": main}}
    (folder / "evaluation.json").write_text(json.dumps(result))


def test_finished_runs_become_records_and_a_table_with_paired_differences(tmp_path, capsys):
    for i, (baseline, dks) in enumerate([(40.0, 38.0), (42.0, 39.0)]):
        make_run(tmp_path / f"baseline{i}", "baseline", 100 + i, baseline)
        make_run(tmp_path / f"dks{i}", "dks", 100 + i, dks)
    make_run(tmp_path / "smooth", "baseline", 100, 37.5, label_smoothing=0.1)
    make_run(tmp_path / "long", "baseline", 101, 41.0, epochs=157)
    (tmp_path / "unfinished").mkdir()
    file = tmp_path / "records.csv"
    assert evidence_cifar10.main([*map(str, tmp_path.iterdir()), f"--output={file}"]) == 0
    assert evidence_table.main([str(file)]) == 0
    shown = capsys.readouterr().out
    assert "| baseline             | 2    | 41.00 ± 1.41 | 1.00 | 0.50 |" in shown
    assert "| label smoothing      | 1    | 37.50        | 1.00 | 0.50 |" in shown
    # The differences are -2 and -3: mean -2.5, standard error 0.5.
    assert "DKS minus baseline: -2.50 ± 0.50, z -5.0, 2 seeds" in shown
    assert "DKS minus label smoothing: +0.50, 1 seeds" in shown
    assert "DKS minus baseline, 157 epochs: -2.00, 1 seeds" in shown


def test_an_evaluation_on_part_of_the_images_is_refused(tmp_path, capsys):
    make_run(tmp_path / "run", "dks", 100, 38.0, num_examples=1000)
    file = tmp_path / "records.csv"
    assert evidence_cifar10.main([str(tmp_path / "run"), f"--output={file}"]) == 2
    assert "test_per_class" in user_error(capsys)
    assert not file.exists()


@pytest.mark.parametrize("file", sorted((ROOT / "docs/evidence").glob("*.csv")), ids=lambda file: file.stem)
def test_the_committed_records_have_a_table(file, capsys):
    assert evidence_table.main([str(file)]) == 0
    assert "DKS minus baseline: " in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n"])
def test_a_file_without_records_is_refused(content, tmp_path, capsys):
    file = tmp_path / "records.csv"
    if content is not None:
        file.write_text(content)
    assert evidence_table.main([str(file)]) == 2
    assert str(file) in user_error(capsys)
