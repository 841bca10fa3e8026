"""The DenseNets of DHM: their initial values, what they refuse, their weights in and out."""

import convert_pytorch
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dks_jax import InputError, models, train
from dks_jax.models import densenet
from dks_jax.nn import get_arrays
from dks_jax.weights import read_checkpoint
from support.initial_values import assert_starts_as_dhm
from support.runs import CONFIGS, user_error
from support.torch_densenet import DenseNet
from support.torch_reference import fill

slow = pytest.mark.slow
SMALL = {"name": "densenet", "depth": 10, "growth_rate": 3, "bottleneck": True, "compression": 0.5}
OF_TORCH = {"growth": 3, "bottleneck": True, "compression": 0.5}


def build(model=None, **options):
    return models.build({**SMALL, **(model or {})}, **{"num_classes": 10, "channels": 3, "seed": 0} | options)


def shape_of(network, size: int) -> tuple[int, ...]:
    network.eval()
    return jax.eval_shape(network, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)).shape


@pytest.mark.parametrize(
    ("config", "depth"),
    [
        ("densenet40", 41),
        pytest.param("densenet40", 4, marks=slow),
        ("densenet_bc100", 25),
        pytest.param("densenet_bc100", 4, marks=slow),
    ],
)
def test_a_depth_that_does_not_fit_is_refused(config, depth, capsys, tmp_path):
    workdir = tmp_path / "run"
    flags = [f"--config={CONFIGS / f'cifar100_{config}.py'}", f"--config.model.depth={depth}"]
    assert train.main([*flags, f"--workdir={workdir}"]) == 2
    assert "`depth`" in user_error(capsys, alone=True)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("growth_rate", 0), ("compression", 0.0), ("compression", 1.5), ("compression", 0.01)],
)
def test_a_network_without_features_is_refused(name, value):
    with pytest.raises(InputError, match=rf"`model\.{name}`"):
        build({name: value})


@pytest.mark.parametrize("size", [6, *(pytest.param(size, marks=slow) for size in (2, 7, 30))])
def test_images_that_the_transitions_cannot_halve_are_refused(size):
    with pytest.raises(InputError, match=r"`data\.image_size` of a densenet"):
        shape_of(build(branches=()), size)


def test_a_stage_has_the_growth_rate_as_its_width_and_a_transition_before_the_last():
    network = build({"depth": 16}, branches=((0, (2, 1, 1), (4, 5, 6)),))
    # 6 channels of the stem and two layers of 3; then half of 12 and two layers; then half of 12 and two.
    assert [stage.transition is None for stage in network.stages] == [False, False, True]
    assert network.head.fc.kernel.shape == (12, 10)
    # From 6 on: 14, halved to 7; then 12, which the last stage does not halve, and 18 after one still deeper.
    (branch,) = network.branches
    assert [stage.transition is None for stage in branch.stages] == [False, True, True]
    assert branch.head.fc.kernel.shape == (18, 10)
    assert shape_of(network, 8) == (2, 2, 10)
    with pytest.raises(InputError, match="`after`"):
        build(branches=((3, (), ()),))


@slow
def test_it_starts_as_the_code_of_dhm_has_it():
    """Convolutions normal by fan-out, norms the identity, linear layers as torch.nn.Linear."""
    network = build({"growth_rate": 12}, num_classes=1000)
    arrays = {name: np.asarray(array) for name, array in get_arrays(network).items()}
    # A stem, seven layers of two convolutions and norms, three transitions, and heads of a norm and fc.
    assert len(arrays) == 1 + 7 * 10 + 3 * 5 + 3 * 6
    assert_starts_as_dhm(arrays)


def written(tmp_path, network: torch.nn.Module):
    file = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": network.state_dict()}, file)
    return file


def comes_in_and_goes_out(tmp_path, theirs: torch.nn.Module, *check: str):
    fill(theirs)
    file, out = written(tmp_path, theirs), tmp_path / "out.pth"
    weights = tmp_path / "weights"
    assert convert_pytorch.main(["import", f"--torch={file}", f"--weights={weights}", *check]) == 0
    assert convert_pytorch.main(["export", f"--torch={out}", f"--weights={weights}"]) == 0
    given, again = torch.load(file, weights_only=True)["state_dict"], torch.load(out, weights_only=True)
    assert list(again) == list(given)
    for name, tensor in given.items():
        assert torch.equal(tensor, again[name]), name


def test_a_checkpoint_of_dhm_comes_in_and_goes_out_unchanged(tmp_path):
    comes_in_and_goes_out(tmp_path, DenseNet(1, (1, 1), 2, num_classes=7, **OF_TORCH))


@slow
@pytest.mark.parametrize("bottleneck", [False, True], ids=["40", "bc-100"])
def test_so_do_checkpoints_of_the_published_networks_whose_logits_agree(tmp_path, bottleneck):
    sizes = (16, (16, 16), 32) if bottleneck else (12, (12, 6), 12)
    own = {"growth": 12, "bottleneck": bottleneck, "compression": 0.5 if bottleneck else 1.0}
    comes_in_and_goes_out(tmp_path, DenseNet(*sizes, num_classes=100, **own), "--check")


@slow
@pytest.mark.parametrize("compression", [1.0, 0.5, 0.9, 0.37])
@pytest.mark.parametrize("bottleneck", [False, True], ids=["basic", "bottleneck"])
def test_growth_and_compression_are_read_from_the_shapes(bottleneck, compression):
    own = {"growth_rate": 7, "bottleneck": bottleneck, "compression": compression}
    torch_own = {"growth": 7, "bottleneck": bottleneck, "compression": compression}
    with torch.device("meta"):
        theirs = DenseNet(2, (2, 2 if bottleneck else 1), 4 if bottleneck else 2, num_classes=3, **torch_own)
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    found = densenet.recognise(shapes)
    assert found.num_classes == 3
    assert {name: found.model[name] for name in ("growth_rate", "bottleneck")}.items() <= own.items()
    # Two numbers that keep the same features are the same network.
    rebuilt = {name: array.shape for name, array in models.shapes(found).items()}
    ours = models.Network({**SMALL, "depth": found.model["depth"], **own}, found.branches, 3, 3)
    assert rebuilt == {name: array.shape for name, array in models.shapes(ours).items()}


def test_a_sibling_with_other_names_is_refused(tmp_path):
    """That of torchvision for ImageNet has its layers in `features`."""
    theirs = DenseNet(1, (1, 1), 2, num_classes=7, **OF_TORCH)
    network = torch.nn.Module()
    network.features = theirs
    network.classifier = theirs.fc
    del theirs.fc
    with pytest.raises(InputError, match="none that is known"):
        read_checkpoint(written(tmp_path, network))


def test_weights_without_one_of_the_transitions_are_refused(tmp_path):
    theirs = DenseNet(1, (1, 1), 2, num_classes=7, **OF_TORCH)
    del theirs.transition2_head2
    with pytest.raises(InputError, match="transition2_head2"):
        read_checkpoint(written(tmp_path, theirs))
