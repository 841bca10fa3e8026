"""The MobileNet of DCM: its initial values, what it refuses, its weights in and out."""

import convert_pytorch
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch

from dks_jax import InputError, models
from dks_jax.models import mobilenet
from dks_jax.nn import get_arrays
from dks_jax.weights import read_checkpoint
from support.torch_mobilenet import MobileNet
from support.torch_reference import fill


def build(**options):
    return models.build(
        {"name": "mobilenet"}, **{"num_classes": 10, "channels": 3, "seed": 0, "branches": ()} | options
    )


@pytest.fixture
def slim(monkeypatch):
    """Gives MobileNet few channels, and one block or two in a stage."""
    monkeypatch.setattr(mobilenet, "STEM", 4)
    monkeypatch.setattr(mobilenet, "FIRST", (2, 8))
    monkeypatch.setattr(mobilenet, "BLOCKS", (2, 1, 1))
    monkeypatch.setattr(mobilenet, "WIDTHS", (8, 16, 32))


def test_a_branch_may_fork_after_the_last_stage_but_not_later(slim):
    network = build(branches=((2, (1,), (40,)),))
    # U(-1, 1) / sqrt(9).
    kernel = network.branches[0].stages[0].blocks[0].conv1.kernel[...]
    assert kernel.shape == (3, 3, 1, 32)
    assert 0.9 / 3 < np.abs(kernel).max() <= 1.000001 / 3
    network.eval()
    assert jax.eval_shape(network, jax.ShapeDtypeStruct((2, 7, 5, 3), jnp.float32)).shape == (2, 2, 10)
    with pytest.raises(InputError, match="`after`"):
        build(branches=((3, (), ()),))


@pytest.mark.slow
def test_it_starts_with_the_values_of_torch():
    """Uniform kernels and biases by the fan-in, which is 9 for a depthwise kernel; norms the identity."""
    arrays = {name: np.asarray(array) for name, array in get_arrays(build()).items()}
    # A stem, thirteen blocks of two convolutions and norms, and the linear layer.
    assert len(arrays) == 5 + 13 * 10 + 2
    depthwise = 0
    for name, array in arrays.items():
        kind = name.rsplit(".", 1)[1]
        if kind in ("kernel", "bias") and "bn" not in name:
            kernel = arrays[name.replace("bias", "kernel")]
            fan_in = kernel.size // kernel.shape[-1]
            depthwise += fan_in == 9
            standard = (array.ravel().astype(np.float64) * np.sqrt(fan_in) + 1) / 2
            assert 0 <= standard.min() <= standard.max() <= 1.000001, name
            assert scipy.stats.kstest(standard, "uniform").pvalue > 1e-4, name
        else:
            assert np.all(array == (1 if kind in ("scale", "var") else 0)), name
    assert depthwise == 13


def written(tmp_path, network: torch.nn.Module):
    file = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": network.state_dict()}, file)
    return file


@pytest.mark.slow
def test_a_checkpoint_of_dcm_comes_in_and_goes_out_unchanged(tmp_path):
    theirs = MobileNet(7)
    fill(theirs)
    file, out = written(tmp_path, theirs), tmp_path / "out.pth"
    weights = tmp_path / "weights"
    assert convert_pytorch.main(["import", f"--torch={file}", f"--weights={weights}", "--check"]) == 0
    assert convert_pytorch.main(["export", f"--torch={out}", f"--weights={weights}"]) == 0
    given, again = torch.load(file, weights_only=True)["state_dict"], torch.load(out, weights_only=True)
    assert list(again) == list(given)
    for name, tensor in given.items():
        assert torch.equal(tensor, again[name]), name


def test_a_sibling_with_other_names_is_refused(tmp_path):
    """The MobileNet of other codes for CIFAR has all blocks in `layers`."""
    network = torch.nn.Module()
    network.conv1, network.bn1 = torch.nn.Conv2d(3, 32, 3, bias=False), torch.nn.BatchNorm2d(32)
    network.layers = torch.nn.Sequential(torch.nn.Module())
    network.layers[0].conv1 = torch.nn.Conv2d(32, 32, 3, groups=32, bias=False)
    network.linear = torch.nn.Linear(32, 7)
    with pytest.raises(InputError, match="none that is known"):
        read_checkpoint(written(tmp_path, network))
