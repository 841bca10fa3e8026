"""The benchmarks: all sides compute the same, and every figure is there; how fast they are is no claim."""

import json
import os
import statistics
from pathlib import Path

import agreement
import benchmark
import numpy as np
import pytest
from benchmarks import loss, ours, torch_input, train
from benchmarks.worker import worker
from PIL import Image

from dks_jax import models
from dks_jax.runtime.errors import InputError
from support import tiny_network

CONFIGS = Path(__file__).parents[2] / "configs"
CIFAR = str(CONFIGS / "cifar100_wrn.py")
TINY = [f"--config={CIFAR}", "--depth=16", "--width=1", "--batch_size=4", "--classes=10", "--rounds=1"]
# For --vary: no branch, and one that is pooling and a linear layer.
SLIM = "--vary=model.branches=();((1,(),()),)"

# With the interface of the released code, and the tests' own network and divergence.
RELEASED_NETWORK = """
import nested_dict
import torch
from support import torch_reference


def resnet(depth, width, num_classes, dropout):
    network = torch_reference.WideResNet(depth, width, num_classes)
    tree = nested_dict.nested_dict({"group": torch_reference.arrays_of(network)})
    parameters = {".".join(path[1:]): value for path, value in tree.items_flat()}

    def f(images, parameters, mode):
        network.train(mode)
        return torch.func.functional_call(network, parameters, (images,))

    return f, parameters
"""
RELEASED_DIVERGENCE = """
import torch
from support.torch_reference import smoothed_softmax


def KL_divergence(logits_p, logits_q):
    p, q = smoothed_softmax(logits_p, 1e-8), smoothed_softmax(logits_q, 1e-8)
    return torch.mean(torch.sum(p * torch.log(p / q), 1)) + 0 * torch.ones(1).cuda().sum()
"""


@pytest.fixture
def photographs(tmp_path):
    """Three files in two classes, of different sizes; none is square."""
    random = np.random.default_rng(0)
    for name, shape in (("a/1.jpg", (40, 60, 3)), ("a/2.png", (70, 50, 3)), ("b/1.jpg", (30, 90, 3))):
        path = tmp_path / "photographs" / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(path)
    return tmp_path / "photographs"


@pytest.fixture
def measure(tmp_path, capsys, monkeypatch):
    """Runs a command line on one core; returns its tables by their first cell, and its JSON."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})

    def run(*arguments):
        output = tmp_path / "result.json"
        assert benchmark.main([*arguments, f"--json={output}"]) == 0
        printed, result = capsys.readouterr().out, json.loads(output.read_text())
        for shown in (result["run"]["processor"], f"jax {result['run']['jax']}", "load average before"):
            assert shown in printed
        assert printed.endswith(f"\n{result['command']}\n")
        blocks = [block.splitlines() for block in printed.split("\n\n") if block.startswith("|")]
        cells = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in block] for block in blocks]
        return {header[0]: [header, *rows] for header, _, *rows in cells}, result

    return run


def refused(capsys, *arguments):
    """The sentence that a command line ends with."""
    assert benchmark.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.slow
def test_evaluation_is_measured_on_both_sides_with_the_same_logits(measure, photographs):
    config = f"--config={CONFIGS / 'imagenet_resnet18.py'}:baseline"
    sizes = ["--batch_size=2", "--batches=1", "--rounds=2"]
    tables, result = measure("evaluate", f"--root={photographs}", config, *sizes)
    header, *rows = tables["images/s"]
    assert header == ["images/s", *header[1:4], "ratio, PyTorch", "ratio, channels_last"]
    assert header[1:4] == ["dks_jax", "PyTorch", "PyTorch channels_last"]
    assert [row[0] for row in rows] == ["decoding", "network", "end to end"]
    assert (rows[0][3], rows[0][5]) == ("-", "-")
    assert (result["num_files"], result["num_images"]) == (2, 2)
    for found in result["logits"].values():
        assert 0 <= found["largest_difference"] < 1e-4 * found["largest_logit"]
    for row, own, plain, *_ in rows:
        seconds = result["seconds"][row]
        assert all(len(of_side) == 2 and min(of_side) > 0 for of_side in seconds.values())
        for cell, of_side in ((own, seconds["dks_jax"]), (plain, seconds["PyTorch"])):
            slowest, median, fastest = (2 / s for s in sorted([*of_side, statistics.median(of_side)])[::-1])
            assert cell.endswith(f"({slowest:.1f}-{fastest:.1f})")
            assert slowest <= median <= fastest


@pytest.mark.parametrize("difference", [1e-3, np.nan])
def test_logits_that_differ_are_refused(difference):
    theirs = np.array([[3.0, difference]])
    with pytest.raises(InputError, match=r"PyTorch must differ by less than 0\.0001 of the largest"):
        agreement.require(agreement.compare(np.array([[3.0, 0.0]]), theirs), "PyTorch", "consequence")


@pytest.mark.slow
def test_the_loss_is_measured_beside_two_forms_in_pytorch(measure):
    tables, result = measure(
        "loss", *["--classes", "2", "5", "--classifiers", "3", "--batch_size", "4", "--rounds", "2"]
    )
    _, *rows = tables["ms a call"]
    assert [row[0] for row in rows] == ["2 classes, 3 classifiers", "5 classes, 3 classifiers"]
    for row, *_, released, stacked in rows:
        medians = [statistics.median(own) for own in result["seconds"][row].values()]
        assert [released, stacked] == [f"{seconds / medians[0]:.2f}" for seconds in medians[1:]]


@pytest.mark.parametrize("factor", [1.0001, np.nan])
def test_a_loss_that_differs_is_refused(factor, monkeypatch, capsys):
    equal = loss.stacked_loss
    monkeypatch.setattr(loss, "stacked_loss", lambda *arguments: factor * equal(*arguments))
    arguments = ["--classes", "3", "--classifiers", "3", "--batch_size", "4"]
    assert "The loss of PyTorch stacked" in refused(capsys, "loss", *arguments)


@pytest.mark.slow
def test_pipelines_are_measured_with_the_same_pixels_on_both_sides(measure, photographs, monkeypatch):
    monkeypatch.setitem(models.NETWORKS, "wide_resnet", tiny_network.FAMILY)
    sizes = ["--cifar=2", "--decoded=2", "--batch_size=2", "--steps=2", "--rounds=1"]
    tables, result = measure("input", f"--root={photographs}", *sizes)
    assert [row[0] for row in tables["images/s"][1:]] == list(result["seconds"])
    assert list(result["seconds"]) == ["cifar", "decoding, training", "decoding, evaluation"]
    assert list(result["seconds"]["cifar"]) == ["dks_jax", "PyTorch", "PyTorch as released"]
    assert result["num_files"] == 3
    base = result["step_seconds"]["one batch"][0]
    for name, _, ratio, waits in tables["a step"][1:]:
        assert ratio == f"{result['step_seconds'][name][0] / base:.3f}"
        assert waits == f"{100 * result['waits'][name][0]:.1f} %"
        assert 0 <= result["waits"][name][0] < 1


def test_an_image_that_differs_in_one_pixel_is_refused(monkeypatch, photographs, capsys):
    equal = torch_input.ReleasedCrops.crop

    def differ(*arguments):
        crop = equal(*arguments)
        crop[0, 0, 0] += 1e-6
        return crop

    monkeypatch.setattr(torch_input.ReleasedCrops, "crop", differ)
    error = refused(capsys, "input", f"--root={photographs}", "--cifar=1", "--decoded=1", "--batch_size=2")
    assert "differs between dks_jax and PyTorch as released" in error


@pytest.mark.slow
def test_every_side_trains_with_the_same_loss(measure, tmp_path, monkeypatch):
    checkout = tmp_path / "checkout" / "wrn_DKS"
    checkout.mkdir(parents=True)
    (checkout / "resnet.py").write_text(RELEASED_NETWORK)
    (checkout / "KL_divergence.py").write_text(RELEASED_DIVERGENCE)
    # The programs are compiled more quickly, and torch.compile finds no compiler.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    monkeypatch.setenv("CXX", "absent")
    tables, result = measure("train", *TINY, f"--original={checkout.parent}")
    sides = ["dks_jax float32", "PyTorch", "PyTorch channels_last", "released code"]
    assert list(result["losses"]) == [row[0] for row in tables["training"][1:]] == sides
    own, *others = result["losses"].values()
    for theirs in others:
        assert theirs[0] == pytest.approx(own[0], rel=1e-5)
        assert theirs[1] == pytest.approx(own[1], rel=1e-3)
    # The steps have changed the weights.
    assert own[1] != own[0]
    for name in ("training", "evaluation"):
        medians = {side: statistics.median(own) for side, own in result["seconds"][name].items()}
        fastest = min(medians[side] for side in sides[1:])
        for side, _, rate, of_plain, of_fastest, *_ in tables[name][1:]:
            assert rate == f"{8 / medians[side]:.1f}"
            assert of_plain == f"{medians['PyTorch'] / medians[side]:.2f}"
            assert of_fastest == f"{fastest / medians[side]:.2f}"
    assert all(float(row[5]) > 50 for row in tables["training"][1:])
    # Backward, and what is no convolution.
    assert 0.7 < result["flops"] / (6 * result["macs"]) < 1.3
    assert list(result["skipped"]) == ["PyTorch channels_last, compiled"]


@pytest.mark.slow
def test_a_size_that_varies_has_a_table_with_ratios_to_its_first_value(measure, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    tables, result = measure("train", *TINY, "--steps=1", "--vary=batch_size=8,4", "--vary=devices=2", SLIM)
    seconds = result["seconds"]["batch_size"]
    header, *rows = tables["batch size"]
    assert header == ["batch size", "images/s", "ratio"]
    ratio = 4 / seconds["4"][0] / (8 / seconds["8"][0])
    assert [[value, of_first] for value, _, of_first in rows] == [["8", "1.00"], ["4", f"{ratio:.2f}"]]
    assert [row[0] for row in tables["devices"]] == ["devices", "2"]
    assert [row[0] for row in tables["model.branches"]] == ["model.branches", "()", "((1,(),()),)"]


@pytest.mark.parametrize(("count", "forks"), [(1, []), (2, [0]), (6, [0, 0, 0, 1, 1])])
def test_further_classifiers_are_branches_like_the_first_two(count, forks):
    setting = ours.load(CIFAR, {"depth": 16, "width": 1, "classifiers": count}, {})
    network = ours.build_network(setting)
    assert [branch.after for branch in network.branches] == forks
    kernels = [np.asarray(branch.head.fc.kernel[...]).sum() for branch in network.branches]
    assert len(set(kernels)) == len(forks)


@pytest.mark.parametrize("theirs", [[7.001, 7.0], [np.nan, 7.0], [7.0, 7.1], [7.0, np.inf]])
def test_losses_that_differ_are_refused(theirs):
    asks = {"dks_jax float32": lambda _: [7.0, 7.0], "PyTorch": lambda _: theirs}
    with pytest.raises(InputError, match="The first losses of PyTorch must be those of dks_jax in float32"):
        train.first_losses(asks)


def test_a_process_that_refuses_or_ends_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "served.py").write_text(
        "import os\nfrom benchmarks.worker import UnmeasurableError, serve\n"
        "def refuse():\n    raise UnmeasurableError('there is no such thing.')\n"
        "serve(lambda options: {'double': lambda: 2 * options['number'], 'refuse': refuse, "
        "'print': lambda: print('noise'), 'end': lambda: os._exit(7)})\n"
    )
    with worker("the side", "served", {"number": 21}) as ask:
        assert (ask("double"), ask("print")) == (42, None)
        with pytest.raises(InputError, match=r"the side: there is no such thing\."):
            ask("refuse")
        for _ in range(2):
            with pytest.raises(InputError, match="the side has ended with status 7"):
                ask("end")


@pytest.mark.slow
def test_a_second_start_finds_the_compiled_programs_of_the_first(measure, tmp_path):
    config = tmp_path / "config.py"
    # The digits without branches.
    config.write_text(
        f"import sys\nsys.path.insert(0, {str(CONFIGS)!r})\nimport digits_wrn\n\n"
        "def get_config():\n    return digits_wrn.get_config('baseline')\n"
    )
    tables, result = measure("start", f"--config={config}", "--rounds=1")
    assert [row[0] for row in tables["s"][1:]] == ["import", "first step, cold", "first step, warm"]
    (cold,), (warm,) = (result["seconds"][f"first step, {start}"]["dks_jax"] for start in ("cold", "warm"))
    assert 0 < warm < cold


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["COMMAND"]),
        (["train"], ["--config"]),
        (["train", *TINY, "--rounds=0"], ["--rounds", "1 or more", "0"]),
        (["train", *TINY, "--depth=17"], ["`depth`", "6n+4"]),
        (["train", *TINY, "--vary=heads=1"], ["`heads`", "no field"]),
        (["train", *TINY, "--vary=heads"], ["--vary", "FIELD", "got heads"]),
        (["train", *TINY, "--config.model.branches=()"], ["`model.branches`", "method", "got ()"]),
        (["start", "--config.epochs=1"], ["`--config.epochs`", "train and compiled", "got start"]),
        (["train", *TINY, "--vary=devices=3"], ["devices 3", "`data.batch_size`", "multiple", "4"]),
        (["train", "--config", f"{CIFAR}:baseline", "--vary=classifiers=2"], ["`classifiers`", "baseline"]),
        (["train", *TINY, "--original=absent"], ["`--original`", "github.com/sundw2014/DKS", "absent"]),
        (["evaluate", "--root=absent"], ["`data.root`", "val", "absent"]),
        (["loss", "--classes", "a"], ["--classes", "whole number", "a"]),
        (["input", "--root=absent"], ["`data.root`", "absent"]),
        (["start", "--config=absent.py"], ["`--config`", "absent.py"]),
        (["loss", "--json=absent/result.json"], ["`--json`", "absent"]),
    ],
)
def test_wrong_arguments_end_with_one_sentence(capsys, arguments, named):
    error = refused(capsys, *arguments)
    assert all(text in error for text in named)


def test_a_config_with_dropout_is_refused(tmp_path, capsys):
    config = tmp_path / "dropout.py"
    config.write_text(Path(CIFAR).read_text().replace('"width": 10', '"width": 10, "dropout": 0.3'))
    error = refused(capsys, "train", f"--config={config}")
    assert "`model.dropout`" in error
    assert "0.3" in error
