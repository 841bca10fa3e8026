"""The summary of runs: what is averaged, what is left out and why, and the files that it writes."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import summarize
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dks_jax import Branch, DeeplySupervised, configuration, models, train
from runs import CONFIGS, DIGITS, SMALL, records

IMAGES = {
    "train_images": 1437,
    "test_images": 360,
    "train_checksum": 1,
    "test_checksum": 2,
    "class_names": ["a"],
}
# The fields of a real config, by their dotted names.
FIELDS = configuration.flatten(
    json.loads(configuration.load(str(CONFIGS / "digits_wrn.py"), {"epochs": "2"}).to_json())
)


def nested(fields):
    config = {}
    for name, value in fields.items():
        *parents, last = name.split(".")
        group = config
        for parent in parents:
            group = group.setdefault(parent, {})
        group[last] = value
    return config


def lines_of(train_errors, test_errors, branches):
    for epoch, both in enumerate(zip(train_errors, test_errors, strict=True), 1):
        for split, error in zip(("train", "test"), both, strict=True):
            named = {f"error/{name}": value for name, value in {"main": error, **branches}.items()}
            step = {"step": 22 * epoch, "epoch": epoch, "split": split, "loss": 0.5, "error": error}
            yield step | named | {"learning_rate": 0.1, "images_per_second": 100.0}


def make_run(folder, method="dks", seed=0, test=(30.0, 20.0), *, train=None, branches=None, **changes):
    """A finished run; `changes` are of config fields, with __ for the dot, or of "images"."""
    images = IMAGES | changes.pop("images", {})
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    fields = FIELDS | {"method": method, "seed": seed, "epochs": len(test)} | changes
    (folder / "weights").mkdir(parents=True)
    program = {"versions": {}, "devices": [], "commit": "unknown", "resumed": []}
    description = {"config": nested(fields), "data": images, **program}
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")
    lines = [json.dumps(line) + "\n" for line in lines_of(train or test, test, branches or {})]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def edit(folder, change):
    """Changes the description in config.json."""
    description = json.loads((folder / "config.json").read_text())
    change(description)
    (folder / "config.json").write_text(json.dumps(description))


def tables(capsys, *arguments):
    """What the command line prints: tables as lists of lists of cells, and the lines on what is left out."""
    assert summarize.main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    blocks = [block.splitlines() for block in captured.out.strip().split("\n\n")]
    found = [[line.strip("|").split("|") for line in block] for block in blocks if block[0].startswith("|")]
    cells = [[[cell.strip() for cell in line] for line in table if "---" not in line[0]] for table in found]
    return cells, [line[2:] for line in blocks[-1] if line.startswith("- ")]


def read_csv(folder):
    return list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))


DATA = "digits, 1,437 + 360 images"


def test_mean_and_sample_deviation_over_seeds(tmp_path, capsys):
    # 18, 20, 22: deviations -2, 0, 2, so the std is sqrt(8 / 2) = 2. Best: 16, 20, 18: mean 18, std 2.
    for seed, errors in enumerate([(16, 18), (40, 20), (18, 22)]):
        make_run(tmp_path / f"baseline{seed}", "baseline", seed, errors)
    make_run(tmp_path / "dks", test=(30, 17.25))
    (last, best), left_out = tables(capsys, tmp_path)
    assert last == [
        ["network", "data", "baseline", "DS", "DKS"],
        ["WRN-16-1", DATA, "20.00 ± 2.00 (3)", "", "17.25 (1)"],
    ]
    assert best[1:] == [["WRN-16-1", DATA, "18.00 ± 2.00 (3)", "", "17.25 (1)"]]
    assert left_out == []


def test_branches_have_tables_of_their_own(tmp_path, capsys):
    make_run(tmp_path / "baseline", "baseline")
    make_run(tmp_path / "a", "ds", 0, branches={"branch1": 31.0, "branch2": 25.0})
    make_run(tmp_path / "b", "ds", 1, branches={"branch1": 33.0, "branch2": 25.0})
    (_, _, branch1, branch2), _ = tables(capsys, tmp_path)
    # sqrt(2): two values, each 1 from their mean.
    assert branch1[1:] == [["WRN-16-1", DATA, "", "32.00 ± 1.41 (2)", ""]]
    assert branch2[1:] == [["WRN-16-1", DATA, "", "25.00 ± 0.00 (2)", ""]]


def test_rare_methods_have_a_column_where_there_are_runs(tmp_path, capsys):
    make_run(tmp_path / "run", "top_down")
    (last, _), _ = tables(capsys, tmp_path)
    assert last[0][2:] == ["baseline", "DS", "DKS", "top-down"]
    assert last[1][2:] == ["", "", "", "20.00 (1)"]


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_csv_holds_unrounded_figures(errors):
    experiment = FIELDS | configuration.flatten({"images": IMAGES})
    runs = [
        summarize.Run(Path(f"run{seed}"), "ds", seed, experiment, [e], [e], {"last": e, "best": e})
        for seed, e in reversed(list(enumerate(errors)))
    ]
    (line,) = csv.DictReader(io.StringIO(summarize.comma_separated(summarize.make_rows(runs))))
    assert (line["method"], line["runs"]) == ("ds", str(len(errors)))
    assert line["seeds"].split() == [str(seed) for seed in range(len(errors))]
    for name in ("last", "best"):
        assert (float(line[f"{name}_min"]), float(line[f"{name}_max"])) == (min(errors), max(errors))
        mean = math.fsum(errors) / len(errors)
        assert float(line[f"{name}_mean"]) == pytest.approx(mean, rel=1e-14)
        if len(errors) == 1:
            assert line[f"{name}_std"] == ""
        else:
            squares = math.fsum((e - mean) ** 2 for e in errors)
            std = math.sqrt(squares / (len(errors) - 1))
            assert float(line[f"{name}_std"]) == pytest.approx(std, rel=1e-9, abs=1e-12)


def test_csv_has_a_line_per_row_and_method(tmp_path, capsys):
    third = 100 / 3
    make_run(tmp_path / "runs/a", "baseline", 4, (50, third))
    make_run(tmp_path / "runs/b", "dks", 7, (50, third), branches={"branch1": third})
    make_run(tmp_path / "runs/c", "dks", 2, (50, 60), norm_groups=2)
    assert summarize.main([str(tmp_path / "runs"), "--output", str(tmp_path / "summary")]) == 0
    first, second, third_line = read_csv(tmp_path / "summary")
    assert (first["network"], first["data"], first["setting"]) == ("WRN-16-1", DATA, "norm_groups 1")
    assert (first["method"], first["seeds"], float(first["last_mean"])) == ("baseline", "4", third)
    assert (first["branch1_mean"], float(second["branch1_mean"])) == ("", third)
    assert third_line["setting"] == "norm_groups 2"
    assert (third_line["last_mean"], third_line["best_mean"]) == ("60.0", "50.0")
    assert (tmp_path / "summary" / "table.md").read_text() == capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"optimizer__learning_rate": 0.05}, ("optimizer.learning_rate 0.05", "optimizer.learning_rate 0.1")),
        ({"data__mean": [0.5]}, ("data.mean [0.305]", "data.mean [0.5]")),
        ({"added": ""}, ('added ""', "added absent")),
        ({"images": {"test_checksum": 3}}, ("images.test_checksum 2", "images.test_checksum 3")),
        (
            {"optimizer__momentum": 0.5, "norm_groups": 2},
            ("norm_groups 1; optimizer.momentum 0.9", "norm_groups 2; optimizer.momentum 0.5"),
        ),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_rows_of_their_own(tmp_path, capsys, changes, labels):
    make_run(tmp_path / "a", test=(20,))
    make_run(tmp_path / "b", test=(10,), seed=1, **changes)
    (last, _), left_out = tables(capsys, tmp_path)
    assert last[0][:3] == ["network", "data", "setting"]
    assert tuple(line[2] for line in last[1:]) == labels
    assert sorted(line[-1] for line in last[1:]) == ["10.00 (1)", "20.00 (1)"]
    assert left_out == []


def test_labels_tell_network_and_data(tmp_path, capsys):
    make_run(tmp_path / "a", model__dropout=0.3)
    make_run(tmp_path / "b", data__source="cifar", data__name="cifar100", images={"train_images": 50000})
    make_run(tmp_path / "c", data__source="folder", images={"train_images": 20})
    make_run(tmp_path / "d", model__name="resnet", data__source="tfds", data__name="mnist")
    (last, _), _ = tables(capsys, tmp_path)
    assert [line[:2] for line in last[1:]] == [
        ["WRN-16-1", "cifar100, 50,000 + 360 images"],
        ["WRN-16-1 dropout 0.3", DATA],
        ["WRN-16-1", "folder, 20 + 360 images"],
        ["resnet depth 16 width 1", "tfds mnist, 1,437 + 360 images"],
    ]


def test_fields_that_do_not_touch_the_result_do_not_part_runs(tmp_path, capsys):
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=1, data__root="elsewhere", checkpoint_every_epochs=1)
    (last, _), _ = tables(capsys, tmp_path)
    assert last[1:] == [["WRN-16-1", DATA, "", "", "20.00 ± 0.00 (2)"]]


def test_the_same_experiment_and_seed_counts_once(tmp_path, capsys):
    a = make_run(tmp_path / "a", test=(20,))
    b = make_run(tmp_path / "b", test=(10,))
    (last, _), left_out = tables(capsys, a, b)
    assert last[1][-1] == "20.00 (1)"
    assert left_out == [f"{b}: duplicate: same config, images and seed as {a}"]
    (last, _), left_out = tables(capsys, tmp_path, a, tmp_path / "b" / ".." / "a")
    assert last[1][-1] == "20.00 (1)"
    assert left_out == [f"{b}: duplicate: same config, images and seed as {a}"]


def without_weights(run):
    (run / "weights").rmdir()


def cut(run):
    """As if killed while the second epoch's last line was written."""
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-10])


def replace(file, old, new):
    def change(run):
        text = (run / file).read_text()
        assert old in text
        (run / file).write_text(text.replace(old, new))

    return change


def config(change):
    return lambda run: edit(run, change)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without_weights, "unfinished: 2 of 2 epochs, but no weights/"),
        (cut, "unfinished: 1 of 2 epochs"),
        (lambda run: (run / "metrics.jsonl").unlink(), "unfinished: 0 of 2 epochs"),
        (config(lambda d: d["config"].update(epochs=40)), "unfinished: 2 of 40 epochs"),
        (config(lambda d: d["config"].update(epochs=0)), "in order, each once"),
        (replace("metrics.jsonl", '"epoch": 1', '"epoch": 2'), "does not hold the epochs 1 to 2 in order"),
        (
            replace("metrics.jsonl", '{"step": 22', '{"step": 22 22'),
            "metrics.jsonl holds text that is no JSON",
        ),
        (replace("metrics.jsonl", '{"step": 44', "[" * 9999), "metrics.jsonl holds text that is no JSON"),
        (
            replace("metrics.jsonl", '"error/main": 30.0', '"error/main": NaN'),
            "in line 1 of metrics.jsonl is nan",
        ),
        (
            replace("metrics.jsonl", '"error/main": 20.0', '"error/main": 1e999'),
            "line 3 of metrics.jsonl is inf",
        ),
        (
            replace("metrics.jsonl", '"error/branch1": 25.0', '"error/branch1": "x"'),
            "`error/branch1` in line 1",
        ),
        (
            replace("metrics.jsonl", '"error/main"', '"x"'),
            "line 1 of metrics.jsonl has no `error/main` of type",
        ),
        (replace("metrics.jsonl", '"split": "test"', '"split": 5'), "line 2 of metrics.jsonl has no `split`"),
        (lambda run: (run / "metrics.jsonl").write_text("[]\n"), "line 1 of metrics.jsonl has no `epoch`"),
        (
            lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\n"),
            "metrics.jsonl holds text that is no JSON",
        ),
        (
            lambda run: (run / "config.json").unlink(),
            "config.json cannot be read (No such file or directory)",
        ),
        (lambda run: (run / "config.json").write_text("{"), "config.json holds text that is no JSON"),
        (lambda run: (run / "config.json").write_text("[]"), "config.json has no `config` of type dict"),
        (config(lambda d: d.pop("data")), "config.json has no `data` of type dict"),
        (config(lambda d: d["config"].pop("seed")), "config.json has no `seed` of type int"),
        (config(lambda d: d["config"].update(epochs=True)), "config.json has no `epochs` of type int"),
        (config(lambda d: d["config"].update(model="x")), "config.json has no `model.name` of type str"),
        (config(lambda d: d["config"].update(method="x")), "config.json has the unknown method 'x'"),
        (config(lambda d: d["data"].update(test_images="x")), "has no `images.test_images` of type int"),
    ],
)
def test_unfinished_and_damaged_runs_are_listed_and_not_averaged(tmp_path, capsys, damage, reason):
    whole = make_run(tmp_path / "whole", test=(40,), epochs=1)
    broken = make_run(tmp_path / "broken", seed=1, branches={"branch1": 25.0})
    damage(broken)
    (last, _), (line,) = tables(capsys, whole, broken)
    assert last[1:] == [["WRN-16-1", DATA, "", "", "40.00 (1)"]]
    assert line.startswith((f"{broken}: unfinished: ", f"{broken}: damaged: "))
    assert reason in line
    # Alone it is an error.
    assert summarize.main([str(broken), "--output", str(tmp_path / "summary")]) == 2
    error = capsys.readouterr().err
    assert error == f"error: There is no finished run to summarise: {line}.\n"
    assert not (tmp_path / "summary").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "The following arguments are required: RUN; see python tools/summarize.py --help."),
        (["run", "--out"], "expected one argument; see python tools/summarize.py --help."),
        (["absent"], "`RUN` must be the workdir of a run or a folder of such; absent does not exist."),
        (["run", "empty"], "`RUN` must be the workdir of a run or a folder of such; empty is neither."),
        (["run/config.json"], "a folder of such; run/config.json is neither."),
        (["run", "--output", "run"], "`--output` must not be the workdir of a run; got run."),
        (
            ["run", "--output", "run/config.json"],
            "File exists (run/config.json): see that the file can be read or written and that there is room, "
            "and start the same command again.",
        ),
    ],
)
def test_wrong_arguments_end_with_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    make_run(Path("run"))
    Path("empty").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert summarize.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.endswith(f"{message}\n")
    assert captured.err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_figure_is_written_as_png_and_the_same_svg_every_time(tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"runs/{seed}", seed=seed, test=(30.0 + seed, 20.0))
    # Characters with a meaning in the titles of figures and in Markdown.
    make_run(tmp_path / "runs/b", "baseline", init_weights="$a|^$^$" * 20)
    for output in ("x", "y/z"):
        assert summarize.main([str(tmp_path / "runs"), "--output", str(tmp_path / output)]) == 0
        found = {path.name for path in (tmp_path / output).iterdir()}
        assert found == {"table.md", "table.csv", "curves.png", "curves.svg"}
        with Image.open(tmp_path / output / "curves.png") as image:
            assert min(image.size) > 500
    assert r"init_weights $a\|^$^$" in (tmp_path / "x/table.md").read_text()
    svg = (tmp_path / "x/curves.svg").read_bytes()
    assert svg == (tmp_path / "y/z/curves.svg").read_bytes()
    assert b"<dc:date>" not in svg


def test_curves_are_means_and_bands_are_ranges(tmp_path):
    make_run(tmp_path / "a", seed=0, test=(30, 20), train=(28, 10))
    make_run(tmp_path / "b", seed=1, test=(40, 22), train=(30, 12))
    make_run(tmp_path / "c", "baseline", test=(50, 24))
    make_run(tmp_path / "d", test=(90,))
    runs, _ = summarize.read_runs(summarize.find_runs([tmp_path]))
    one_epoch, two_epochs = summarize.draw(summarize.make_rows(runs)).axes
    assert "epochs 1" in one_epoch.get_title(loc="left")
    assert [line.get_marker() for line in one_epoch.get_lines()] == [".", "."]
    _, _, train_line, test_line = two_epochs.get_lines()
    assert (train_line.get_linestyle(), test_line.get_linestyle()) == ("--", "-")
    np.testing.assert_array_equal(train_line.get_xydata(), [(1, 29), (2, 11)])
    np.testing.assert_array_equal(test_line.get_xydata(), [(1, 35), (2, 21)])
    band = two_epochs.collections[-1].get_paths()[0].get_extents()
    np.testing.assert_array_equal(band.get_points(), [(1, 20), (2, 40)])
    labels = [text.get_text() for text in two_epochs.get_legend().get_texts()]
    assert labels == ["baseline (1 run)", "DKS (2 runs)"]


class Flatten(nnx.Module):
    def __call__(self, x):
        return x.reshape(len(x), -1)


def linear_network(*, num_classes, rngs, **_):
    """For the digits; compiled in no time."""

    def head():
        return nnx.Linear(64, num_classes, rngs=rngs)

    early = [Branch(0, [], head())]
    return DeeplySupervised(Flatten(), [nnx.Linear(64, 64, rngs=rngs)], head(), early)


def test_a_real_run(tmp_path, monkeypatch, capsys):
    quick = models.MODELS["wide_resnet"]._replace(build=linear_network)
    monkeypatch.setitem(models.MODELS, "wide_resnet", quick)
    workdir = tmp_path / "runs" / "real"
    # Batches of one size compile faster.
    assert train.main([DIGITS, *SMALL, "--config.data.drop_last=True", f"--workdir={workdir}"]) == 0
    capsys.readouterr()
    (last, best, branch), left_out = tables(capsys, tmp_path / "runs", "--output", tmp_path / "summary")
    tests = [record for record in records(workdir) if record["split"] == "test"]
    labels = ["WRN-16-1", "digits, 100 + 20 images", "", ""]
    assert last[1] == [*labels, f"{tests[-1]['error']:.2f} (1)"]
    assert best[1] == [*labels, f"{min(record['error'] for record in tests):.2f} (1)"]
    assert branch[1] == [*labels, f"{tests[-1]['error/branch1']:.2f} (1)"]
    assert left_out == []
    (line,) = read_csv(tmp_path / "summary")
    assert float(line["last_mean"]) == tests[-1]["error"]
