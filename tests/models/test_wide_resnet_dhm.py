"""Wide ResNets by the names of DHM, in and out."""

import re

import convert_pytorch
import pytest
import torch

from dks_jax import InputError
from dks_jax.weights import read_checkpoint
from support import torch_reference as reference

# By the names of DKS, in the order in which DHM lists what they hold.
PLACES = {
    "conv0": "conv",
    "group0": "layer1",
    "group1": "layer2",
    "group2": "layer3",
    "bn": "bn",
    "fc": "fc",
    "ep1_group1": "layer2_head2",
    "ep1_group2": "layer3_head2",
    "ep1_bn": "bn_head2",
    "ep1_fc": "fc_head2",
    "ep2_group2": "layer3_head1",
    "ep2_bn": "bn_head1",
    "ep2_fc": "fc_head1",
}
LAYERS = {"bn0": "bn1", "conv0": "conv1", "bn1": "bn2", "conv1": "conv2", "convdim": "shortcut"}


def of_dhm(name: str) -> str:
    """The name in DHM's code of an array that DKS names otherwise."""
    place, *rest = name.split(".")
    if not rest:
        return f"{PLACES[place]}.weight"
    if not (block := re.fullmatch(r"block(\d+)", rest[0])):
        return ".".join([PLACES[place], *rest])
    layer, *kind = rest[1:]
    return ".".join([PLACES[place], block[1], LAYERS[layer], *(kind or ["weight"])])


@pytest.fixture
def theirs() -> dict[str, torch.Tensor]:
    """A WRN-16-1 with both branches, by the names of DKS."""
    network = reference.WideResNet(16, 1, num_classes=7)
    reference.fill(network)
    return network.state_dict()


@pytest.mark.parametrize("check", [(), pytest.param(("--check",), marks=pytest.mark.slow)])
def test_a_checkpoint_of_dhm_comes_in_and_goes_out_by_the_names_of_both(theirs, check, tmp_path):
    file, weights = tmp_path / "checkpoint.pth", tmp_path / "weights"
    torch.save({of_dhm(name): tensor for name, tensor in theirs.items()}, file)
    assert convert_pytorch.main(["import", f"--torch={file}", f"--weights={weights}", *check]) == 0
    export = ["export", f"--weights={weights}"]
    assert convert_pytorch.main([*export, f"--torch={tmp_path / 'dhm.pth'}", "--names=DHM"]) == 0
    assert convert_pytorch.main([*export, f"--torch={tmp_path / 'dks.pt7'}"]) == 0
    again = torch.load(tmp_path / "dhm.pth", weights_only=True)
    assert again.keys() == {of_dhm(name) for name in theirs}
    params = torch.load(tmp_path / "dks.pt7", weights_only=True)["params"]
    assert params.keys() == {name for name in theirs if not name.endswith("num_batches_tracked")}
    for name, tensor in theirs.items():
        assert torch.equal(again[of_dhm(name)], tensor), name
        assert name not in params or torch.equal(params[name], tensor), name


def test_a_checkpoint_without_a_shortcut_is_refused(theirs, tmp_path):
    file = tmp_path / "checkpoint.pth"
    tensors = {of_dhm(name): tensor for name, tensor in theirs.items()}
    del tensors["layer3_head1.0.shortcut.weight"]
    torch.save(tensors, file)
    with pytest.raises(InputError, match="layer3_head1"):
        read_checkpoint(file)
