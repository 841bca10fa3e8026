"""The summary of runs: what is averaged, what is left out and why, and the files that it writes."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import summarize
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from summary.curves import draw
from summary.differences import paired
from summary.macs import training_macs
from summary.reading import Run, find_runs, read_runs
from summary.rows import make_rows
from summary.tables import summary

from dks_jax.models import Preprocessing, build
from dks_jax.nn import count_macs
from dks_jax.supervision import branch_specs
from dks_jax.weights import Metadata
from support.runs import file_times, records, user_error


@pytest.fixture
def make_run(unbroken, tmp_path):
    """Makes finished runs, described as the real one but for some fields, with errors of our own."""

    def make(
        name, method="dks", seed=0, test=(30.0, 20.0), *, train=None, branches=None, logged=(), **changes
    ):
        """`changes` are of config fields, with __ for the dot, or of "data".

        logged: what held-out records have beside the errors.
        """
        folder = tmp_path / name
        (folder / "weights").mkdir(parents=True)
        description = json.loads((unbroken / "config.json").read_text())
        description["data"] |= changes.pop("data", {})
        for field, value in ({"method": method, "seed": seed, "epochs": len(test)} | changes).items():
            *parents, last = field.split("__")
            group = description["config"]
            for parent in parents:
                group = group[parent]
            group[last] = value
        (folder / "config.json").write_text(json.dumps(description))
        with (folder / "metrics.jsonl").open("w") as file:
            for epoch, errors in enumerate(zip(train or test, test, strict=True), 1):
                for split, error in zip(("train", "test"), errors, strict=True):
                    named = {f"error/{n}": value for n, value in {"main": error, **(branches or {})}.items()}
                    step = {"step": 22 * epoch, "epoch": epoch, "split": split, "loss": 0.5, "error": error}
                    named |= dict(logged) if split == "test" else {}
                    file.write(json.dumps(step | named) + "\n")
        return folder

    return make


def tables(capsys, *arguments):
    """The tables of errors as lists of lists of cells, and the lines on what is left out."""
    cells, left_out = all_tables(capsys, *arguments)
    return [table for table in cells if not {"method", "difference"} & {*table[0]}], left_out


def table_with(column, capsys, *arguments):
    """The lines of the one table with a column, as dictionaries."""
    ((header, *lines),) = (table for table in all_tables(capsys, *arguments)[0] if column in table[0])
    return [dict(zip(header, line, strict=True)) for line in lines]


def all_tables(capsys, *arguments):
    """What the command line prints: tables as lists of lists of cells, and the lines on what is left out."""
    capsys.readouterr()
    assert summarize.main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    blocks = [block.splitlines() for block in captured.out.strip().split("\n\n")]
    found = [[line.strip("|").split("|") for line in block] for block in blocks if block[0].startswith("|")]
    cells = [[[cell.strip() for cell in line] for line in table if "---" not in line[0]] for table in found]
    return cells, [line[2:] for line in blocks[-1] if line.startswith("- ")]


def read_csv(folder):
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


DATA = "digits, 100 + 20 images"


def test_mean_and_sample_deviation_over_seeds(make_run, tmp_path, capsys):
    # 18, 20, 22: deviations -2, 0, 2, so the std is sqrt(8 / 2) = 2. Best: 16, 20, 18: mean 18, std 2.
    for seed, errors in enumerate([(16, 18), (40, 20), (18, 22)]):
        # Fields that do not touch the result may differ.
        free = {"data__root": f"folder {seed}", "checkpoint_every_epochs": seed + 1}
        make_run(f"baseline{seed}", "baseline", seed, errors, **free)
    make_run("dks", test=(30, 17.25))
    (last, best), left_out = tables(capsys, tmp_path)
    assert last == [
        ["network", "data", "baseline", "DS", "DKS"],
        ["WRN-16-1", DATA, "20.00 ± 2.00 (3)", "", "17.25 (1)"],
    ]
    assert best[1:] == [["WRN-16-1", DATA, "18.00 ± 2.00 (3)", "", "17.25 (1)"]]
    assert left_out == []


def test_branches_have_tables_and_rare_methods_a_column_where_there_are_runs(make_run, tmp_path, capsys):
    make_run("baseline", "baseline")
    make_run("a", "top_down", 0, branches={"branch1": 31.0, "branch2": 25.0})
    make_run("b", "top_down", 1, branches={"branch1": 33.0, "branch2": 25.0})
    (last, _, branch1, branch2), _ = tables(capsys, tmp_path)
    assert last[0][2:] == ["baseline", "DS", "DKS", "top-down"]
    assert last[1][2:] == ["20.00 (1)", "", "", "20.00 ± 0.00 (2)"]
    # sqrt(2): two values, each 1 from their mean.
    assert branch1[1][2:] == ["", "", "", "32.00 ± 1.41 (2)"]
    assert branch2[1][2:] == ["", "", "", "25.00 ± 0.00 (2)"]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_a_summary_is_exact(errors):
    runs = [
        Run(Path(), "ds", seed, {}, [e], [e], {"last": e}) for seed, e in reversed(list(enumerate(errors)))
    ]
    figures = summary(runs)
    mean = math.fsum(errors) / len(errors)
    assert figures["runs"] == len(errors)
    assert (figures["last_min"], figures["last_max"]) == (min(errors), max(errors))
    assert figures["last_mean"] == pytest.approx(mean, rel=1e-14)
    if len(errors) == 1:
        assert figures["last_std"] is None
    else:
        std = math.sqrt(math.fsum((e - mean) ** 2 for e in errors) / (len(errors) - 1))
        assert figures["last_std"] == pytest.approx(std, rel=1e-9, abs=1e-12)


def test_csv_has_a_line_per_row_and_method_with_unrounded_figures(make_run, tmp_path, capsys):
    third = 100 / 3
    make_run("runs/a", "baseline", 4, (50, third))
    make_run("runs/b", "dks", 7, (50, third), branches={"branch1": third})
    make_run("runs/c", "dks", 2, (50, third), branches={"branch1": third})
    make_run("runs/d", "dks", 2, (50, 60), norm_groups=2)
    assert summarize.main([str(tmp_path / "runs"), "--output", str(tmp_path / "summary")]) == 0
    assert (tmp_path / "summary" / "table.md").read_text() == capsys.readouterr().out
    first, second, third_line = read_csv(tmp_path / "summary")
    assert (first["network"], first["data"], first["setting"]) == ("WRN-16-1", DATA, "norm_groups 1")
    assert (first["method"], first["seeds"], float(first["last_mean"])) == ("baseline", "4", third)
    assert (first["last_std"], first["branch1_mean"]) == ("", "")
    assert (second["method"], second["seeds"], second["runs"]) == ("dks", "2 7", "2")
    assert float(second["branch1_mean"]) == third
    assert third_line["setting"] == "norm_groups 2"
    assert (third_line["last_mean"], third_line["best_mean"]) == ("60.0", "50.0")


def test_differences_are_paired_by_seed(make_run, tmp_path, capsys):
    # Seeds 1, 2 and 3 in common: -1, -2, -3: mean -2, deviation 1, standard error 1 / sqrt(3), z -2 sqrt(3).
    for seed, error in enumerate([90, 20, 30, 40]):
        make_run(f"runs/baseline{seed}", "baseline", seed, (error,))
    for seed, error in [(1, 19), (2, 28), (3, 37), (7, 1)]:
        make_run(f"runs/dks{seed}", "dks", seed, (error,))
    make_run("runs/ds", "ds", 3, (36.5,))
    make_run("runs/up", "bottom_up", 9, (36.5,))
    # Other runs of these seeds, in a row of their own, have nothing to do with it.
    make_run("runs/other", "baseline", 7, (50,), norm_groups=2)
    lines = table_with("difference", capsys, tmp_path / "runs", "--output", tmp_path / "summary")
    names = ("difference", "mean", "standard error", "z", "pairs")
    assert [[line[name] for name in names] for line in lines] == [
        ["DS - baseline", "-3.50", "-", "-", "1"],
        ["DKS - baseline", "-2.00", "0.58", "-3.46", "3"],
        ["DKS - DS", "+0.50", "-", "-", "1"],
    ]
    by_method = {line["method"]: line for line in read_csv(tmp_path / "summary") if line["runs"] != "1"}
    dks = {name: float(value) for name, value in by_method["dks"].items() if name.startswith("minus_base")}
    assert dks == pytest.approx(
        {
            "minus_baseline_mean": -2,
            "minus_baseline_standard_error": 1 / math.sqrt(3),
            "minus_baseline_z": -2 * math.sqrt(3),
            "minus_baseline_pairs": 3,
        }
    )
    assert by_method["dks"]["minus_ds_mean"] == "0.5"
    assert (by_method["dks"]["minus_ds_z"], by_method["baseline"]["minus_ds_mean"]) == ("", "")


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=6))
def test_paired_differences_are_scipy_s_t_statistic(pairs):
    runs, others = (
        [Run(Path(), "ds", seed, {}, [], [], {"last": pair[i]}) for seed, pair in enumerate(pairs)]
        for i in (0, 1)
    )
    difference, reverse = paired(runs, others), paired(others[::-1], runs)
    assert (reverse.mean, reverse.standard_error) == (-difference.mean, difference.standard_error)
    if difference.standard_error > 1e-6:
        expected = scipy.stats.ttest_rel(*zip(*pairs, strict=True)).statistic
        assert difference.z == pytest.approx(expected, rel=1e-6)
    elif difference.standard_error == 0:
        assert difference.z is None


def test_measures_of_the_last_epoch_stand_beside_the_error_where_all_runs_logged_them(
    make_run, tmp_path, capsys
):
    logged = {"error/mean": 18.0, "cross_entropy/main": 0.5, "ece/main": 0.125}
    make_run("a", seed=0, logged=logged)
    make_run("b", seed=1, logged={"error/mean": 20.0, "cross_entropy/main": 0.75, "ece/main": 0.25})
    # A run of before logged none.
    make_run("c", "baseline", seed=0, logged={"cross_entropy/main": 1.0})
    make_run("d", "baseline", seed=1)
    baseline, dks = table_with("method", capsys, tmp_path)
    names = ("method", "error, %", "mean of classifiers, %", "NLL", "ECE", "compute")
    assert [dks[name] for name in names] == [
        "DKS",
        "20.00 ± 0.00 (2)",
        "19.00 ± 1.41 (2)",
        "0.6250 ± 0.1768 (2)",
        "0.1875 ± 0.0884 (2)",
        "",
    ]
    assert [baseline[name] for name in names] == ["baseline", "20.00 ± 0.00 (2)", "", "", "", ""]


def test_compute_is_in_units_of_the_shortest_baseline_s(make_run, unbroken, tmp_path, capsys):
    described = json.loads((unbroken / "weights" / "metadata.json").read_text())
    per_image, slim = {}, [[1, [], []]]
    for method, epochs in (("baseline", 2), ("baseline", 6), ("dks", 2), ("ds", 6), ("top_down", 2)):
        own = {"model__branches": slim} if method == "top_down" else {}
        folder = make_run(f"{method}{epochs}", method, test=[20] * epochs, **own)
        branches = {"baseline": [], "top_down": slim}.get(method, described["branches"])
        (folder / "weights" / "metadata.json").write_text(json.dumps(described | {"branches": branches}))
        network = build(
            described["model"], num_classes=10, channels=1, branches=branch_specs(branches), seed=1
        )
        network.eval()
        per_image[method] = count_macs(network, np.zeros((1, 8, 8, 1), np.float32))
    # Another network without a baseline.
    make_run("wide", "baseline", model__width=2)
    ratio = per_image["dks"] / per_image["baseline"]
    slimmer = per_image["top_down"] / per_image["baseline"]
    assert 1 < slimmer < ratio
    lines = table_with("compute", capsys, tmp_path)
    found = [(line["setting"], line["method"], line["compute"]) for line in lines]
    assert found == [
        ("epochs 2", "baseline", "1.00"),
        ("epochs 2", "DKS", f"{ratio:.2f}"),
        ("epochs 6", "baseline", "3.00"),
        ("epochs 6", "DS", f"{3 * ratio:.2f}"),
        # Of the same backbone, although its branches make it a row of another network.
        ("", "top-down", f"{slimmer:.2f}"),
        ("", "baseline", ""),
    ]


def test_the_macs_of_a_run_are_those_that_torchvision_publishes(tmp_path):
    # ResNet18_Weights.IMAGENET1K_V1: 1.814 GFLOPS, where a multiplication with its addition counts once.
    file = tmp_path / "metadata.json"
    preprocessing = Preprocessing("squash", 224, 224, 3, (0.5,) * 3, (0.25,) * 3)
    metadata = Metadata({"name": "resnet18"}, (), tuple(map(str, range(1000))), preprocessing)
    file.write_text(json.dumps(metadata.to_json()))
    assert training_macs(tmp_path, has_branches=False) / 1e9 == pytest.approx(1.814, abs=0.0005)
    file.write_text(file.read_text()[:50])
    assert training_macs(tmp_path, has_branches=False) is None


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"data__mean": [0.5]}, ("data.mean [0.305]", "data.mean [0.5]")),
        ({"added": ""}, ('added ""', "added absent")),
        ({"data": {"test_checksum": 3}}, None),
        (
            {"optimizer__momentum": 0.5, "norm_groups": 2},
            ("norm_groups 1; optimizer.momentum 0.9", "norm_groups 2; optimizer.momentum 0.5"),
        ),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_rows_of_their_own(
    make_run, tmp_path, capsys, changes, labels
):
    make_run("a", test=(20,))
    make_run("b", test=(10,), seed=1, **changes)
    (last, _), left_out = tables(capsys, tmp_path)
    assert last[0][2] == "setting"
    assert sorted(line[-1] for line in last[1:]) == ["10.00 (1)", "20.00 (1)"]
    if labels:
        assert tuple(line[2] for line in last[1:]) == labels
    assert left_out == []


@pytest.mark.parametrize(
    "changed",
    [
        ("step", {"step": 22, "optimizer.learning_rate": [0.1, 0.2]}, True),
        ("step", {"step": 22, "optimizer.drop_epochs": [[1], [2]]}, True),
        ("step", {"step": 22, "optimizer.drop_factor": [0.1, 0.2], "data.root": ["a", "b"]}, True),
        ("cosine", {"step": 22, "epochs": [1, 2]}, True),
        # As if they had been so from the beginning.
        ("step", {"step": 22, "epochs": [1, 2]}, False),
        ("cosine", {"step": 0, "epochs": [1, 2]}, False),
        ("cosine", {"step": 22, "checkpoint_keep": [1, 2]}, False),
    ],
)
def test_a_run_whose_learning_rate_was_another_one_is_a_row_of_its_own(make_run, tmp_path, capsys, changed):
    schedule, change, own_row = changed
    make_run("a", optimizer__schedule=schedule)
    description = make_run("b", seed=1, optimizer__schedule=schedule) / "config.json"
    text = json.loads(description.read_text())
    text["resumed"] += [{name: text[name] for name in ("versions", "devices", "processes", "commit")}, change]
    description.write_text(json.dumps(text))
    (last, _), left_out = tables(capsys, tmp_path)
    assert len(last) == (3 if own_row else 2)
    assert left_out == []


def test_labels_name_network_and_data(make_run, tmp_path, capsys):
    make_run("a", model__dropout=0.3)
    make_run("b", data__source="cifar", data__name="cifar100", data={"train_images": 50000})
    make_run("c", data__source="folder")
    make_run("d", model__name="resnet", data__source="tfds", data__name="mnist")
    (last, _), _ = tables(capsys, tmp_path)
    assert [line[:2] for line in last[1:]] == [
        ["WRN-16-1", "cifar100, 50,000 + 20 images"],
        ["WRN-16-1 dropout 0.3", DATA],
        ["WRN-16-1", "folder, 100 + 20 images"],
        ["resnet depth 16 width 1", "tfds mnist, 100 + 20 images"],
    ]


def test_the_same_experiment_and_seed_counts_once(make_run, tmp_path, capsys):
    a, b = make_run("a", test=(20,)), make_run("b", test=(10,))
    for given_ in ((a, b), (tmp_path, a, tmp_path / "b" / ".." / "a")):
        (last, _), (line,) = tables(capsys, *given_)
        assert last[1][-1] == "20.00 (1)"
        assert line.startswith(f"{b}: duplicate")
        assert str(a) in line


# As if killed while it was written.
LAST_LINE = b'"split": "test", "loss": 0.5, "error": 20.0, "error/main": 20.0, "error/branch1": 25.0, '
LAST_LINE += b'"ece/main": 0.25, "cross_entropy/main": 1.5}\n'
# (file, a text in it, what takes its place, the reason and what it names); without a text: the whole file.
DAMAGED = [
    ("weights", None, None, "unfinished", "weights/"),
    ("metrics.jsonl", None, None, "unfinished", "0 of 2"),
    ("metrics.jsonl", LAST_LINE, LAST_LINE[:9], "unfinished", "1 of 2"),
    ("config.json", b'"epochs": 2', b'"epochs": 40', "unfinished", "2 of 40"),
    ("config.json", b'"epochs": 2', b'"epochs": 0', "damaged", "metrics.jsonl"),
    ("metrics.jsonl", b'"epoch": 1', b'"epoch": 2', "damaged", "metrics.jsonl"),
    ("metrics.jsonl", b'{"step": 44', b"[" * 9999, "damaged", "metrics.jsonl"),
    ("metrics.jsonl", None, b"\xff\n", "damaged", "metrics.jsonl"),
    ("metrics.jsonl", None, b"[]\n", "damaged", "`epoch`"),
    ("metrics.jsonl", b'"error/main": 30.0', b'"error/main": NaN', "damaged", "`error/main`"),
    ("metrics.jsonl", b'"error/main": 20.0', b'"error/main": 1e999', "damaged", "`error/main`"),
    ("metrics.jsonl", b'"error/branch1": 25.0', b'"error/branch1": "x"', "damaged", "`error/branch1`"),
    ("metrics.jsonl", b'"error/main"', b'"x"', "damaged", "`error/main`"),
    ("metrics.jsonl", b'"ece/main": 0.25', b'"ece/main": NaN', "damaged", "`ece/main`"),
    ("metrics.jsonl", b'py/main": 1.5', b'py/main": "x"', "damaged", "`cross_entropy/main`"),
    ("metrics.jsonl", b'"split": "test"', b'"split": 5', "damaged", "`split`"),
    ("config.json", None, None, "damaged", "config.json"),
    ("config.json", None, b"{", "damaged", "config.json"),
    ("config.json", None, b"[]", "damaged", "`config`"),
    ("config.json", b'"seed"', b'"sod"', "damaged", "`seed`"),
    ("config.json", b'"method": "dks"', b'"method": "x"', "damaged", "'x'"),
    ("config.json", b'"test_images": 20', b'"test_images": "x"', "damaged", "test_images"),
]


@pytest.mark.parametrize("damage", DAMAGED)
def test_unfinished_and_damaged_runs_are_listed_and_not_averaged(make_run, tmp_path, capsys, damage):
    file, old, new, reason, named = damage
    whole = make_run("whole", test=(40,), epochs=1)
    logged = {"ece/main": 0.25, "cross_entropy/main": 1.5}
    broken = make_run("broken", seed=1, branches={"branch1": 25.0}, logged=logged)
    if old:
        content = (broken / file).read_bytes()
        assert old in content
        (broken / file).write_bytes(content.replace(old, new))
    elif new:
        (broken / file).write_bytes(new)
    else:
        (broken / file).rename(tmp_path / "gone")
    (last, _), (line,) = tables(capsys, whole, broken)
    assert last[1:] == [["WRN-16-1", DATA, "", "", "40.00 (1)"]]
    assert line.startswith(f"{broken}: {reason}: ")
    assert named in line
    # Alone it is an error.
    assert summarize.main([str(broken), "--output", str(tmp_path / "summary")]) == 2
    assert line in user_error(capsys, alone=True)
    assert not (tmp_path / "summary").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ([], "RUN"),
        (["absent"], "absent"),
        (["run", "empty"], "empty"),
        (["run/config.json"], "run/config.json"),
        (["run", "--output", "run"], "`--output`"),
        (["run", "--output", "run/config.json"], "run/config.json"),
    ],
)
def test_wrong_arguments_are_named(make_run, tmp_path, monkeypatch, capsys, wrong):
    arguments, named = wrong
    monkeypatch.chdir(tmp_path)
    make_run("run")
    Path("empty").mkdir()
    before = file_times(tmp_path)
    assert summarize.main(arguments) == 2
    assert named in user_error(capsys, alone=True)
    assert file_times(tmp_path) == before


def test_the_figure_is_written_as_png_and_the_same_svg_every_time(make_run, tmp_path):
    for seed in range(2):
        make_run(f"runs/{seed}", seed=seed, test=(30.0 + seed, 20.0))
    # Characters with a meaning in the titles of figures and in Markdown.
    make_run("runs/b", "baseline", init_weights="$a|^$^$" * 20)
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


def test_curves_are_means_and_bands_are_ranges(make_run, tmp_path):
    make_run("a", seed=0, test=(30, 20), train=(28, 10))
    make_run("b", seed=1, test=(40, 22), train=(30, 12))
    make_run("c", "baseline", test=(50, 24))
    make_run("d", test=(90,))
    runs, _ = read_runs(find_runs([tmp_path]))
    one_epoch, two_epochs = draw(make_rows(runs)).axes
    assert "epochs 1" in one_epoch.get_title(loc="left")
    # A line through a single point is invisible.
    assert [line.get_marker() for line in one_epoch.get_lines()] == [".", "."]
    _, _, train_line, test_line = two_epochs.get_lines()
    assert train_line.get_linestyle() != test_line.get_linestyle()
    np.testing.assert_array_equal(train_line.get_xydata(), [(1, 29), (2, 11)])
    np.testing.assert_array_equal(test_line.get_xydata(), [(1, 35), (2, 21)])
    band = two_epochs.collections[-1].get_paths()[0].get_extents()
    np.testing.assert_array_equal(band.get_points(), [(1, 20), (2, 40)])
    labels = [text.get_text() for text in two_epochs.get_legend().get_texts()]
    assert labels == ["baseline (1 run)", "DKS (2 runs)"]


def test_a_real_run(unbroken, tmp_path, capsys):
    (last, best, branch1, _), left_out = tables(capsys, unbroken.parent, "--output", tmp_path / "summary")
    tests = [record for record in records(unbroken) if record["split"] == "test"]
    labels = ["WRN-16-1", DATA, "", ""]
    assert last[1] == [*labels, f"{tests[-1]['error']:.2f} (1)"]
    assert best[1] == [*labels, f"{min(record['error'] for record in tests):.2f} (1)"]
    assert branch1[1] == [*labels, f"{tests[-1]['error/branch1']:.2f} (1)"]
    assert left_out == []
    (line,) = read_csv(tmp_path / "summary")
    assert float(line["last_mean"]) == tests[-1]["error"]
    for name, logged in (("ensemble", "error/mean"), ("nll", "cross_entropy/main"), ("ece", "ece/main")):
        assert float(line[f"{name}_mean"]) == tests[-1][logged]
