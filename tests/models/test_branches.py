"""Branches as data: any number, stage, depth and width, from a config or the command line alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dks_jax import BranchSpec, DeeplySupervised, InputError, models, train
from dks_jax.command_line import ConfigParser
from dks_jax.config import Config
from dks_jax.nn import count_macs, get_arrays
from dks_jax.training.experiment import build_network
from dks_jax.weights import load_network
from support.runs import CONFIGS, SMALL, records, run

# Three branches, one of which is slim and one a head alone.
THREE = {
    "digits_wrn": "((0, (2, 1), (32, 64)), (1, (1,), (16,)), (2, (), ()))",
    "imagenet_resnet18": "((0, (1, 1, 1), (128, 256, 512)), (1, (1, 1), (32, 64)), (2, (), ()))",
}


def config_of(name: str, *flags: str) -> Config:
    parser = ConfigParser("test", None)
    _, config = parser.parse_with_config([f"--config={CONFIGS / f'{name}.py'}", *flags])
    return config


def network_of(name: str, *flags: str) -> DeeplySupervised:
    config = config_of(name, *flags)
    network = build_network(config, num_classes=10, channels=len(config.data.mean))
    network.eval()
    return network


@pytest.mark.parametrize("name", ["digits_wrn", pytest.param("imagenet_resnet18", marks=pytest.mark.slow)])
def test_branches_come_from_the_command_line_alone(name: str):
    network = network_of(name, f"--config.model.branches={THREE[name]}")
    plain = network_of(name, "--config.model.branches=()")
    size, channels = (8, 1) if name == "digits_wrn" else (64, 3)
    images = jax.random.normal(jax.random.key(0), (2, size, size, channels))
    logits = network(images)
    assert logits.shape == (4, 2, 10)
    assert network.names == ("branch1", "branch2", "branch3", "main")
    # Every initial value of the backbone is the same with and without branches.
    own, alone = get_arrays(network.drop_branches()), get_arrays(plain)
    assert own.keys() == alone.keys()
    assert all(np.array_equal(own[name], alone[name]) for name in own)
    assert np.array_equal(network.drop_branches()(images), plain(images))
    assert np.array_equal(logits[-1], plain(images)[0])


def test_a_branch_as_narrow_as_the_stage_before_it_halves_the_resolution_all_the_same():
    network = network_of("digits_wrn", "--config.model.branches=((0,(1,1),(16,16)),)")
    block = network.branches[0].stages[0].blocks[0]
    assert block(jnp.ones((2, 8, 8, 16))).shape == (2, 4, 4, 16)
    assert network(jnp.ones((2, 8, 8, 1))).shape == (2, 2, 10)


def test_the_arithmetic_of_branches_is_that_of_their_convolutions():
    images = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    plain, three = (
        count_macs(network_of("digits_wrn", f"--config.model.branches={branches}"), images)
        for branches in ("()", THREE["digits_wrn"])
    )
    # By hand, on maps of 8, 4 and 2 pixels a side; every stage changes the width, hence a 1x1 shortcut.
    early = 16 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32 + 2 * 9 * 32 * 32) + 4 * (
        9 * 32 * 64 + 9 * 64 * 64 + 32 * 64
    )
    slim = 4 * (9 * 32 * 16 + 9 * 16 * 16 + 32 * 16)
    heads = 10 * (64 + 16 + 64)
    assert three - plain == early + slim + heads


@pytest.mark.parametrize("name", ["wide_resnet", *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152))])
def test_the_published_branches_are_data_too(name: str):
    published = models.resolve_branches({"name": name}, "published")
    networks = [
        models.shapes(models.Network({"name": name}, branches, num_classes=10, channels=3))
        for branches in (published, ())
    ]
    assert len(published) == 2
    assert networks[1].items() < networks[0].items()


@pytest.mark.slow
def test_a_slim_branch_is_trained_saved_and_loaded(tmp_path):
    slim = "--config.model.branches=((1, (1,), (16,)),)"
    assert run(tmp_path / "run", slim, "--config.epochs=1") == 0
    assert {"error/branch1", "error/main"} <= records(tmp_path / "run")[-1].keys()
    network, metadata = load_network(tmp_path / "run")
    assert metadata.branches == (BranchSpec(1, (1,), (16,)),)
    deployed, alone = load_network(tmp_path / "run", branches=False)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    assert network(images).shape == (2, 2, 10)
    assert alone.branches == ()
    assert np.array_equal(network(images)[-1], deployed(images)[0])


@pytest.mark.parametrize(
    ("branches", "named"),
    [
        ("((3, (), ()),)", "`after`"),
        ("((1, (), ()), (0, (), ()))", "depth order"),
        ("((0, (2,), (8, 8)),)", "`model.branches`"),
        ("((0, (0,), (8,)),)", "`model.branches`"),
        ("((0, 1, 8),)", "`model.branches`"),
        ("(0, (1,), (8,))", "`model.branches`"),
        ("everywhere", "model.branches"),
    ],
)
def test_branches_that_cannot_be_built_are_refused(branches: str, named: str, tmp_path, capsys):
    flags = [f"--config={CONFIGS / 'digits_wrn.py'}", *SMALL, f"--workdir={tmp_path / 'run'}"]
    assert train.main([*flags, f"--config.model.branches={branches}"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert named in printed
    assert not (tmp_path / "run").exists()


def test_a_branch_of_a_bottleneck_has_its_width_before_the_expansion():
    network = models.Network({"name": "resnet50"}, (BranchSpec(2, (1,), (128,)),), 10, 3)
    assert models.shapes(network)["branches.0.head.fc.kernel"].shape == (512, 10)


def test_unknown_networks_are_refused():
    with pytest.raises(InputError, match=r"`model\.name`.*vgg"):
        models.build({"name": "vgg"}, num_classes=2, channels=3, seed=0)
