"""The costs that tools/cost.py prints, against counts of the released codes and the memory of real arrays."""

import csv

import cost
import jax
import numpy as np
import pytest
from flax import nnx

from dks_jax import Branch, DeeplySupervised, models
from dks_jax.nn import get_arrays
from dks_jax.training.experiment import build_network
from support.real_torchvision import torchvision
from support.runs import CONFIGS, user_error

slow = pytest.mark.slow
# Config and overrides; parameters of backbone, early and late branch; their MACs in millions. The networks
# of the released codes were built and counted: 100 classes at 32x32, 1,000 at 224x224.
PUBLISHED = [
    pytest.param(
        *("cifar100_wrn16_8", {}),
        *((11_007_540, 5_822_820, 31_044_196), (1548.19, 771.80, 1979.81)),
        marks=slow,
        id="WRN-16-8",
    ),
    pytest.param(
        *("cifar100_wrn", {}),
        *((36_536_884, 20_145_060, 107_464_420), (5243.39, 2621.50, 6868.30)),
        marks=slow,
        id="WRN-28-10",
    ),
    pytest.param(
        *("cifar100_resnet32", {}),
        *((470_004, 298_212, 1_379_428), (68.87, 35.40, 87.31)),
        id="CIFAR-ResNet-32",
    ),
    pytest.param(
        *("cifar100_resnet110", {}),
        *((1_733_812, 816_356, 5_219_940), (252.89, 82.58, 332.67)),
        marks=slow,
        id="CIFAR-ResNet-110",
    ),
    pytest.param(
        *("cifar100_densenet40", {}),
        *((1_060_132, 650_236, 2_038_996), (264.85, 112.53, 124.99)),
        marks=slow,
        id="DenseNet-40-12",
    ),
    pytest.param(
        *("cifar100_densenet_bc100", {}),
        *((800_032, 599_944, 4_942_888), (287.96, 88.82, 304.48)),
        marks=slow,
        id="DenseNet-BC-100-12",
    ),
    pytest.param(
        *("cifar100_mobilenet", {}),
        *((3_309_476, 2_637_668, 5_484_132), (611.65, 340.66, 337.22)),
        marks=slow,
        id="MobileNet",
    ),
    pytest.param(
        *("imagenet_resnet18", {}),
        *((11_689_512, 9_825_768, 31_968_232), (1814.07, 591.38, 1516.74)),
        marks=slow,
        id="ResNet-18",
    ),
    pytest.param(
        *("imagenet_resnet34", {}),
        *((21_797_672, 12_187_112, 50_846_696), (3663.76, 1053.81, 2441.58)),
        marks=slow,
        id="ResNet-34",
    ),
    pytest.param(
        *("imagenet_resnet50", {}),
        *((25_557_032, 16_297_960, 58_668_008), (4089.18, 1402.16, 2830.01)),
        marks=slow,
        id="ResNet-50",
    ),
    pytest.param(
        *("imagenet_resnet101", {}),
        *((44_549_160, 26_352_616, 58_668_008), (7801.41, 3367.45, 2830.01)),
        marks=slow,
        id="ResNet-101",
    ),
    pytest.param(
        *("imagenet_resnet152", {}),
        *((60_192_808, 33_055_720, 58_668_008), (11513.63, 4677.65, 2830.01)),
        marks=slow,
        id="ResNet-152",
    ),
    # Of torchvision's own blocks, the branches too, which it does not have; it states those of the backbones.
    pytest.param(
        *("imagenet_resnet50", {"model.name": "resnext50_32x4d"}),
        *((25_028_904, 15_739_880, 55_927_784), (4230.48, 1512.95, 2849.28)),
        marks=slow,
        id="ResNeXt-50 32x4d",
    ),
    pytest.param(
        *("imagenet_resnet50", {"model.name": "resnext101_32x8d"}),
        *((88_791_336, 49_994_728, 110_609_384), (16414.02, 7182.43, 5835.75)),
        marks=slow,
        id="ResNeXt-101 32x8d",
    ),
    pytest.param(
        *("imagenet_resnet50", {"model.name": "wide_resnet50_2"}),
        *((68_883_240, 40_881_128, 165_635_048), (11398.02, 3752.80, 8224.93)),
        marks=slow,
        id="Wide ResNet-50-2",
    ),
    pytest.param(
        *("imagenet_resnet50", {"model.name": "wide_resnet101_2"}),
        *((126_886_696, 71_588_840, 165_635_048), (22753.05, 9764.29, 8224.93)),
        marks=slow,
        id="Wide ResNet-101-2",
    ),
]
# Branches of a WRN-28-10; parameters and MACs of training over the backbone's; leaving at each, in per cent.
SLIM = [
    pytest.param("published", 4.49, 2.81, (82, 197), marks=slow),
    pytest.param("((0,(4,2),(320,640)),(1,(4,),(640,)))", 2.32, 1.84, (82, 100), marks=slow),
    pytest.param("((0,(2,1),(320,640)),(1,(2,),(640,)))", 1.61, 1.39, (55, 82), marks=slow),
    pytest.param("((0,(1,1),(320,640)),(1,(1,),(640,)))", 1.36, 1.21, (46, 73), marks=slow),
    # 1.10 and 1.06 without the 1x1 shortcuts of the blocks that halve the resolution and keep the width.
    pytest.param("((0,(1,1),(160,320)),(1,(1,),(320,)))", 1.11, 1.07, (36, 68), marks=slow),
    pytest.param("((0,(),()),(1,(),()))", 1.00, 1.00, (32, 66)),
]


def cost_of(name: str, overrides: dict[str, str] | None = None, num_classes: int | None = None) -> cost.Cost:
    return cost.cost(name, models.load_config(name, overrides), num_classes)


def read(file) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize(("name", "overrides", "parameters", "millions"), PUBLISHED)
def test_parameters_and_macs_are_those_of_the_released_codes(name, overrides, parameters, millions):
    *parts, training = cost_of(name, overrides).parts
    assert [part.name for part in parts] == ["backbone", "branch1", "branch2"]
    assert tuple(part.parameters for part in parts) == parameters
    assert tuple(round(part.macs / 1e6, 2) for part in parts) == millions
    assert training.parameters == sum(parameters)
    assert training.macs == sum(part.macs for part in parts)


@slow
@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("convnext_tiny", 1.77, 1.35), ("convnext_small", 1.44, 1.18), ("convnext_base", 1.43, 1.18)],
)
def test_a_convnext_costs_what_torchvision_states_and_its_branches_what_we_do(name, parameters, macs):
    stated = torchvision.models.get_model_weights(name).DEFAULT.meta
    backbone, *_, training = cost_of("finetune_folder", {"model.name": name}, num_classes=1000).parts
    assert backbone.parameters == stated["num_params"]
    assert round(backbone.macs / 1e9, 3) == stated["_ops"]
    assert round(training.parameters / backbone.parameters, 2) == parameters
    assert round(training.macs / backbone.macs, 2) == macs


@pytest.mark.parametrize(
    ("name", "backbone", "everything"),
    [
        ("resnet32", 464_154, 2_124_334),
        pytest.param("resnet110", 1_727_962, 7_746_798, marks=slow),
        pytest.param("densenet40", 1_019_722, 3_608_694, marks=slow),
        pytest.param("densenet_bc100", 769_162, 6_163_854, marks=slow),
        pytest.param("wrn16_8", 10_961_370, 47_689_966, marks=slow),
        pytest.param("mobilenet", 3_217_226, 11_062_366, marks=slow),
    ],
)
def test_parameters_for_another_number_of_classes(name, backbone, everything):
    parts = cost_of(f"cifar100_{name}", num_classes=10).parts
    assert (parts[0].parameters, parts[-1].parameters) == (backbone, everything)


@slow
@pytest.mark.parametrize(
    ("name", "parameters", "billions"), [("vit_b_16", 86_567_656, 17.564), ("vit_b_32", 88_224_232, 4.409)]
)
def test_vision_transformers_cost_what_torchvision_says(name, parameters, billions):
    backbone, *branches, training = cost_of("finetune_folder", {"model.name": name}, num_classes=1000).parts
    assert (backbone.parameters, round(backbone.macs / 1e9, 3)) == (parameters, billions)
    # Two blocks of 12 width^2 weights and 13 width biases and scales, and a head with its norm.
    own = 2 * (12 * 768**2 + 13 * 768) + 2 * 768 + 769 * 1000
    assert [branch.parameters for branch in branches] == [own, own]
    assert training.parameters == parameters + 2 * own


@pytest.mark.parametrize(("branches", "parameters", "macs", "leaving"), SLIM)
def test_slim_branches_cost_what_arithmetic_says(branches, parameters, macs, leaving):
    backbone, *exits, training = cost_of("cifar100_wrn", {"model.branches": branches}).parts
    assert round(training.parameters / backbone.parameters, 2) == parameters
    assert round(training.macs / backbone.macs, 2) == macs
    assert tuple(round(100 * part.leaving / backbone.macs) for part in exits) == leaving


def nbytes(arrays) -> int:
    return sum(np.asarray(array).nbytes for array in jax.tree.leaves(arrays))


@pytest.mark.parametrize(
    ("overrides", "copies"),
    [({}, 1), ({"optimizer.name": "adamw", "ema_decay": "0.9"}, 2)],
    ids=["sgd", "adamw and ema"],
)
def test_the_state_of_training_is_that_of_its_arrays(overrides, copies):
    config = models.load_config("digits_wrn", {"model.branches": "((1,(),()),)"} | overrides)
    arrays = get_arrays(build_network(config, num_classes=10, channels=1))
    statistics = nbytes([array for name, array in arrays.items() if name.endswith((".mean", ".var"))])
    parameters = nbytes(arrays) - statistics
    state = cost.cost("digits", config).parts[-1].state
    # Beside the arrays there are counters of steps, a few bytes each.
    assert 0 < state.parameters - parameters <= 8
    assert 0 < state.optimizer - copies * parameters <= 16
    assert state.statistics == statistics
    assert state.average == (nbytes(arrays) if "ema_decay" in overrides else 0)


def test_activations_are_the_inputs_of_the_layers_but_the_images():
    """The derivative of a linear layer by its kernel takes its input; the kernels are no activations."""

    def build() -> DeeplySupervised:
        rngs = nnx.Rngs(0)
        early = Branch(0, [], nnx.Linear(32, 10, rngs=rngs))
        stages = [nnx.Linear(16, 32, rngs=rngs)]
        return DeeplySupervised(nnx.Linear(4, 16, rngs=rngs), stages, nnx.Linear(32, 10, rngs=rngs), [early])

    config = models.load_config("digits_wrn")
    images = jax.ShapeDtypeStruct((3, 4), np.float32)
    # The 32 features are the input of the head and of the branch, and are kept once.
    assert cost.count_activations(config, nnx.eval_shape(build), images) == 3 * (16 + 32) * 4


def test_activations_follow_precision_and_remat():
    def activations(**fields: str) -> int | None:
        return cost_of("digits_wrn", {"model.branches": "()"} | fields).parts[0].activations

    whole = activations()
    assert 0.45 * whole < activations(precision="bfloat16") < 0.65 * whole
    # Of the blocks only their inputs are kept.
    assert activations(remat="True") < 0.4 * whole


def test_the_table_has_whole_counts_and_the_file_all_digits(tmp_path, capsys):
    file = tmp_path / "cost.csv"
    branches = "--config.model.branches=((1,(),()),)"
    assert cost.main(["--config=digits_wrn", "--config=digits_wrn:baseline", branches, f"--csv={file}"]) == 0
    shown = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if "|" in line]
    assert lines[2][:4] == ["digits_wrn", "backbone", "174,778", "1,648,256"]
    assert [line[1] for line in lines[2:]] == ["backbone", "branch1", "training"] * 2
    rows = read(file)
    assert [row["part"] for row in rows] == [line[1] for line in lines[2:]]
    for row, line in zip(rows, lines[2:], strict=True):
        assert f"{int(row['parameters']):,}" == line[2]
        assert f"{float(row['macs_over_backbone']):.2f}" == line[4]
    assert int(rows[0]["macs"]) == 1_648_256
    assert rows[1]["parameters_bytes"] == ""


def test_a_baseline_is_its_backbone(capsys):
    assert cost.main(["--config=digits_wrn:baseline"]) == 0
    assert "training" not in capsys.readouterr().out


def test_classes_that_only_data_tell_are_asked_for(capsys, tmp_path):
    file = tmp_path / "cost.csv"
    assert cost.main(["--config=images", f"--csv={file}"]) == 2
    assert "--classes" in user_error(capsys, alone=True)
    assert not file.exists()
    assert cost.main(["--config=images:baseline", "--classes=1000", f"--csv={file}"]) == 0
    assert int(read(file)[0]["parameters"]) == 11_689_512


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_a_number_of_classes_that_is_none_is_refused(number, capsys):
    assert cost.main(["--config=digits_wrn", f"--classes={number}"]) == 2
    assert "--classes" in user_error(capsys, alone=True)


@slow
@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_shipped_config_has_its_costs_without_data(config, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cost.main([f"--config={config}", "--classes=7"]) == 0
    assert "training" in capsys.readouterr().out
