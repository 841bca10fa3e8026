"""The benchmarks of the training step: every side trains the same, in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import benchmark
import numpy as np
import pytest
from benchmarks import our_training, stand_ins, train_step
from benchmarks.workers import Worker

from dks_jax.errors import InputError

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "cifar100_wrn.py")
TINY = ["--depth=16", "--width=1", "--batch_size=4", "--classes=10", "--rounds=2", "--steps=2"]
ABSENT = ["ml_collections", "tqdm", "PIL", "pooch", "tensorflow_datasets", "grain", "matplotlib", "sklearn"]

# With the interface of the released code, and the tests' own network and divergence.
RELEASED_NETWORK = """
import nested_dict
import torch
import torch_reference


def resnet(depth, width, num_classes, dropout):
    network = torch_reference.WideResNet(depth, width, num_classes)
    tree = nested_dict.nested_dict({"group": torch_reference.arrays_of(network)})
    parameters = {".".join(path[1:]): value for path, value in tree.items_flat()}
    for name, value in parameters.items():
        value.requires_grad_("running" not in name)

    def f(images, parameters, mode):
        network.train(mode)
        return torch.func.functional_call(network, parameters, (images,))

    return f, parameters
"""
RELEASED_DIVERGENCE = """
import torch
from torch_reference import smoothed_softmax


def KL_divergence(logits_p, logits_q):
    p, q = smoothed_softmax(logits_p, 1e-8), smoothed_softmax(logits_q, 1e-8)
    return torch.mean(torch.sum(p * torch.log(p / q), 1)) + 0 * torch.ones(1).cuda().sum()
"""


def run(folder, *arguments):
    """What the command line prints, and its JSON, where little but JAX and PyTorch is installed."""
    blocked = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"
    (folder / "sitecustomize.py").write_text(blocked)
    program = [sys.executable, str(ROOT / "tools" / "benchmark.py"), *arguments]
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests"))),
        # The programs are compiled more quickly, and torch.compile finds no compiler.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "CXX": "absent",
    }
    result = subprocess.run(
        [*program, f"--json={folder / 'result.json'}"],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads((folder / "result.json").read_text())


def tables(printed):
    """The tables of Markdown, without the lines below their headers."""
    blocks = [block.splitlines() for block in printed.split("\n\n") if block.startswith("|")]
    cells = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in block] for block in blocks]
    return [[header, *rows] for header, _, *rows in cells]


def test_every_side_trains_with_the_same_loss_and_needs_only_jax_and_pytorch(tmp_path):
    released = tmp_path / "checkout" / "wrn_DKS"
    released.mkdir(parents=True)
    (released / "resnet.py").write_text(RELEASED_NETWORK)
    (released / "KL_divergence.py").write_text(RELEASED_DIVERGENCE)
    original = f"--original={released.parent}"
    printed, result = run(tmp_path, "train", f"--config={CONFIG}", *TINY, "--matrix=32", original)
    sides = ["dks_jax float32", "PyTorch", "PyTorch channels_last", "released code"]
    training, evaluation = tables(printed)
    assert training[0] == [
        "training",
        "ms",
        "images/s",
        "x PyTorch",
        "x fastest",
        "memory, MiB",
        "arithmetic",
    ]
    assert evaluation[0] == ["evaluation", *training[0][1:5]]
    assert list(result["losses"]) == [row[0] for row in training[1:]] == sides
    ours, *theirs = result["losses"].values()
    for losses in theirs:
        assert losses[0] == pytest.approx(ours[0], rel=1e-5)
        assert losses[1] == pytest.approx(ours[1], rel=1e-3)
    # The steps have changed the weights.
    assert ours[1] != ours[0]

    for name, table in (("training", training), ("evaluation", evaluation)):
        seconds = result["seconds"][name]
        assert all(len(own) == 2 and min(own) > 0 for own in seconds.values())
        medians = {side: statistics.median(own) for side, own in seconds.items()}
        fastest = min(value for side, value in medians.items() if side != "dks_jax float32")
        for side, _, rate, of_plain, of_fastest, *_ in table[1:]:
            assert rate == f"{4 / medians[side]:.1f}"
            assert of_plain == f"{medians['PyTorch'] / medians[side]:.2f}"
            assert of_fastest == f"{fastest / medians[side]:.2f}"
    for row in training[1:]:
        assert float(row[5]) == round(result["peak_memory_bytes"][row[0]] / 2**20) > 50
    # Backward, and what is no convolution.
    assert 0.7 < result["flops"] / (6 * result["macs"]) < 1.3
    assert list(result["skipped"]) == ["PyTorch channels_last, compiled"]
    assert "left out: PyTorch channels_last, compiled: torch.compile needs a compiler" in printed


def test_growth_has_a_table_for_a_size_with_several_values(tmp_path):
    sizes = ["--batch_size=4", "--width=1", "--depth=16", "--classes=10", "--classifiers=1"]
    arguments = [*sizes, "--devices", "1", "2", "--rounds=1", "--steps=1"]
    printed, result = run(tmp_path, "growth", f"--config={CONFIG}", *arguments)
    (table,) = tables(printed)
    (rates,) = result["images_per_second"].values()
    assert table[0] == ["devices", "images/s", "ratio"]
    assert [row[0] for row in table[1:]] == list(rates) == ["1", "2"]
    assert [row[2] for row in table[1:]] == ["1.00", f"{rates['2'][0] / rates['1'][0]:.2f}"]


@pytest.mark.parametrize(("count", "forks"), [(1, []), (2, [0]), (3, [0, 1]), (6, [0, 0, 0, 1, 1])])
def test_further_classifiers_are_branches_like_the_first_two(count, forks):
    options = {"overrides": {"model.depth": "16", "model.width": "1"}, "classes": 10, "steps": 1}
    setting = our_training.load({"config": CONFIG, "classifiers": count, **options})
    network = our_training.build_network(setting)
    assert [branch.after for branch in network.branches] == forks
    kernels = [np.asarray(branch.head.fc.kernel[...]).sum() for branch in network.branches]
    assert len(set(kernels)) == len(forks)


class Side:
    """In place of a process that measures."""

    def __init__(self, answer):
        self.answer = answer

    def ask(self, request):
        assert request == "first losses"
        if isinstance(self.answer, str):
            raise InputError(self.answer)
        return self.answer


@pytest.mark.parametrize("theirs", [[7.001, 7.0], [np.nan, 7.0], [7.0, 7.1], [7.0, np.inf]])
def test_losses_that_differ_are_refused(theirs):
    sides = {"dks_jax float32": Side([7.0, 7.0]), "PyTorch": Side(theirs)}
    with pytest.raises(InputError, match=r"The first losses of PyTorch must be those of dks_jax in float32"):
        train_step._first_losses(sides)


def test_a_network_that_cannot_be_compiled_is_left_out_with_its_reason():
    sides = {"dks_jax float32": Side([7.0]), "a, compiled": Side("no compiler"), "a, bfloat16": Side([7.1])}
    losses, skipped = train_step._first_losses(sides)
    assert list(losses) == ["dks_jax float32", "a, bfloat16"]
    assert skipped == {"a, compiled": "no compiler"}
    with pytest.raises(InputError, match="no compiler"):
        train_step._first_losses({"PyTorch": Side("no compiler")})


def test_a_process_that_refuses_or_ends_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "served.py").write_text(
        "import os\nfrom benchmarks.serving import UnmeasurableError, serve\n"
        "def refuse():\n    raise UnmeasurableError('there is no such thing.')\n"
        "serve(lambda options: {'double': lambda: 2 * options['number'], 'refuse': refuse, "
        "'print': lambda: print('noise'), 'end': lambda: os._exit(7)})\n"
    )
    with Worker("the side", "served", {"number": 21}) as worker:
        assert worker.ask("double") == 42
        assert worker.ask("print") is None
        with pytest.raises(InputError, match=r"the side: there is no such thing\."):
            worker.ask("refuse")
        for _ in range(2):
            with pytest.raises(
                InputError, match="The process that measures the side has ended with status 7"
            ):
                worker.ask("end")


def test_the_stand_in_of_a_config_is_read_by_attributes_and_keys():
    config = stand_ins.ConfigDict({"model": {"depth": 16}, "seed": 1})
    with config.ignore_type():
        config["model"]["depth"] = 22
    assert config.model.depth == 22
    assert dict(config.model) == {"depth": 22}
    with pytest.raises(AttributeError, match="width"):
        _ = config.model.width


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "are required: --config; see python tools/benchmark.py train --help."),
        (["train", f"--config={CONFIG}", "--depth=17"], "`depth` of a wide ResNet must be 6n+4"),
        (["train", f"--config={CONFIG}", "--rounds=0"], "`--rounds` must be 1 or more; got 0."),
        (
            ["train", f"--config={CONFIG}", "--original=absent"],
            "`--original` must name a checkout of github.com/sundw2014/DKS; there is no absent/wrn_DKS",
        ),
        (["growth", "--batch_size", "8", "0"], "`--batch_size` must be 1 or more; got 0."),
        (
            ["growth", f"--config={CONFIG}:baseline"],
            "`method` must be one of dks, ds, top_down, bottom_up; got 'baseline': --classifiers 1 is the",
        ),
        (
            ["growth", f"--config={CONFIG}", "--devices", "1", "3"],
            "`--batch_size` must be a multiple of the devices, 3; got 64.",
        ),
    ],
)
def test_wrong_arguments_end_with_one_sentence(capsys, arguments, message):
    assert benchmark.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_config_with_dropout_is_refused(tmp_path, capsys):
    config = tmp_path / "dropout.py"
    config.write_text(Path(CONFIG).read_text().replace('"dropout": 0.0', '"dropout": 0.3'))
    assert benchmark.main(["train", f"--config={config}"]) == 2
    assert "`model.dropout` must be 0, since no two sides drop the same; got 0.3." in capsys.readouterr().err
