"""The tables of the summary of runs: what is averaged, compared and counted."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import summarize
from hypothesis import given
from hypothesis import strategies as st
from summary.differences import paired
from summary.macs import training_macs
from summary.reading import Run
from summary.tables import summary

from dks_jax.models import Preprocessing, build
from dks_jax.nn import count_macs
from dks_jax.supervision import branch_specs
from dks_jax.weights import Metadata
from support.runs import records
from support.summaries import DATA, read_csv, table_with, tables


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
