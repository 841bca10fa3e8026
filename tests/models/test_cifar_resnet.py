"""The CIFAR ResNets of DHM: their initial values, what they refuse, their weights in and out."""

import convert_pytorch
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dks_jax import InputError, models, train
from dks_jax.nn import get_arrays
from dks_jax.weights import read_checkpoint
from support.initial_values import assert_starts_as_dhm
from support.runs import CONFIGS, assert_falling, losses, user_error
from support.torch_cifar_resnet import CifarResNet

SMALL = {"name": "cifar_resnet", "depth": 8}


def build(**options):
    return models.build(SMALL, **{"num_classes": 10, "channels": 3, "seed": 0} | options)


@pytest.mark.parametrize("depth", [2, 7, 33, 34])
def test_a_depth_that_does_not_fit_is_refused(depth, capsys, tmp_path):
    config = CONFIGS / "cifar100_resnet32.py"
    workdir = tmp_path / "run"
    assert train.main([f"--config={config}", f"--config.model.depth={depth}", f"--workdir={workdir}"]) == 2
    assert "`depth`" in user_error(capsys, alone=True)
    assert not workdir.exists()


def test_a_branch_narrower_than_the_stage_before_it_is_refused():
    with pytest.raises(InputError, match="`widths`"):
        build(branches=((1, (1,), (16,)),))


def test_a_branch_may_fork_after_the_last_stage_but_not_later():
    network = build(branches=((2, (1,), (80,)),))
    network.eval()
    assert jax.eval_shape(network, jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)).shape == (2, 2, 10)
    with pytest.raises(InputError, match="`after`"):
        build(branches=((3, (), ()),))


@pytest.mark.parametrize("size", [6, 7, 30])
def test_images_that_the_stages_cannot_halve_are_refused(size):
    network = build(branches=())
    network.eval()
    with pytest.raises(InputError, match=r"`data\.image_size`"):
        jax.eval_shape(network, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))


def test_it_starts_as_the_code_of_dhm_has_it():
    """Convolutions normal by fan-out, norms the identity, linear layers as torch.nn.Linear."""
    arrays = {name: np.asarray(array) for name, array in get_arrays(build(num_classes=1000)).items()}
    # A stem of a convolution and a norm, six blocks of two of each, and three linear layers.
    assert len(arrays) == 5 + 6 * 10 + 3 * 2
    assert_starts_as_dhm(arrays)


def written(tmp_path, network: torch.nn.Module):
    file = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": network.state_dict()}, file)
    return file


def test_a_checkpoint_of_dhm_comes_in_and_goes_out_unchanged(tmp_path):
    torch.manual_seed(0)
    theirs = CifarResNet(1, (1, 1), 1, 7)
    file, out = written(tmp_path, theirs), tmp_path / "out.pth"
    weights = tmp_path / "weights"
    assert convert_pytorch.main(["import", f"--torch={file}", f"--weights={weights}", "--check"]) == 0
    assert convert_pytorch.main(["export", f"--torch={out}", f"--weights={weights}"]) == 0
    again = torch.load(out, weights_only=True)
    theirs.load_state_dict(again)
    for name, tensor in torch.load(file, weights_only=True)["state_dict"].items():
        assert torch.equal(tensor, again[name]), name


def test_names_of_a_library_without_the_network_are_refused(tmp_path, capsys):
    weights, out = tmp_path / "weights", tmp_path / "out.pth"
    file = written(tmp_path, CifarResNet(1, (1, 1), 1, 7))
    assert convert_pytorch.main(["import", f"--torch={file}", f"--weights={weights}"]) == 0
    capsys.readouterr()
    command = ["export", f"--torch={out}", f"--weights={weights}", "--names=timm"]
    assert convert_pytorch.main(command) == 2
    assert "DHM" in user_error(capsys, alone=True)
    assert not out.exists()


def test_a_sibling_with_he_s_shortcuts_is_refused(tmp_path):
    """Its shortcuts have no arrays either; its linear layer is named `linear`."""
    theirs = CifarResNet(1, (1, 1), 1, 7)
    theirs.linear = theirs.fc
    del theirs.fc
    with pytest.raises(InputError, match="linear"):
        read_checkpoint(written(tmp_path, theirs))


ON_DIGITS = {
    "model.depth": 8,
    "data.source": "digits",
    "data.image_size": 8,
    "data.padding": 1,
    "data.mean": (0.3,),
    "data.std": (0.4,),
    "data.train_per_class": 10,
    "data.test_per_class": 2,
    "data.batch_size": 50,
    "epochs": 3,
    "precision": "bfloat16",
    "remat": True,
}


@pytest.mark.slow
def test_its_config_trains_in_bfloat16_with_remat(tmp_path, quick_compilation):
    flags = [f"--config.{name}={value}" for name, value in ON_DIGITS.items()]
    config = f"--config={CONFIGS / 'cifar100_resnet32.py'}"
    assert train.main([config, *flags, f"--workdir={tmp_path / 'run'}"]) == 0
    assert_falling(losses(tmp_path / "run"))
