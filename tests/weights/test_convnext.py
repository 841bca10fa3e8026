"""Weights of ConvNeXts by the names of torchvision and of timm, and what is refused."""

import numpy as np
import pytest
import torch
import torch_forward

from dks_jax import InputError, models
from dks_jax.nn import get_arrays
from dks_jax.weights import Metadata, Weights, read_checkpoint, torch_names, write_checkpoint
from support.conversion import assert_same_file, convert
from support.runs import user_error
from support.tiny_convnexts import (
    FAMILY,
    NUM_CLASSES,
    SIZE,
    lively,
    tiny_convnext,
    torchvision_convnext,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.NETWORKS, "tiny_convnext", FAMILY)


def test_weights_pass_through_the_names_of_both_libraries_unchanged(tmp_path):
    files = {name: tmp_path / f"{name}.pth" for name in ("before", "timm", "after")}
    first, second = tmp_path / "first", tmp_path / "second"
    torch.save(lively(torchvision_convnext()).state_dict(), files["before"])
    assert convert("import", files["before"], first) == 0
    assert convert("export", files["timm"], first, "--names=timm", "--check") == 0
    assert convert("import", files["timm"], second) == 0
    assert convert("export", files["after"], second) == 0
    assert_same_file(files["before"], files["after"])
    torchvision_convnext().load_state_dict(torch.load(files["after"], weights_only=True), strict=True)


def test_the_plain_forward_pass_is_that_of_torchvision():
    network = lively(torchvision_convnext())
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(torch_forward.logits(network.state_dict(), images)[0], expected)


def arrays_of(library):
    """Arrays of the network by the names of a library."""
    table = {table.library: table for table in FAMILY.torch}[library]
    return torch_names.to_torch(table, get_arrays(tiny_convnext(branches=())))


@pytest.fixture
def written(tmp_path):
    """A function that writes arrays to a file and returns its path."""

    def write(arrays):
        file = tmp_path / "checkpoint.pth"
        torch.save({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, file)
        return file

    return write


@pytest.mark.parametrize(
    ("library", "resized", "interpolation"), [("torchvision", 36, "bilinear"), ("timm", 256, "bicubic")]
)
def test_preprocessing_is_assumed_to_be_that_of_the_library(library, resized, interpolation, written):
    assumed = read_checkpoint(written(arrays_of(library))).metadata.preprocessing
    assert assumed.assumed
    assert round(224 / assumed.crop_ratio) == resized
    assert assumed.interpolation == interpolation


@pytest.mark.parametrize(("library", "head"), [("torchvision", "classifier.2"), ("timm", "head.fc")])
def test_the_head_may_be_absent(library, head, written):
    arrays = arrays_of(library)
    assert len(read_checkpoint(written(arrays)).metadata.class_names) == NUM_CLASSES
    backbone = {name: array for name, array in arrays.items() if not name.startswith(head)}
    assert not read_checkpoint(written(backbone)).metadata.class_names


def named(start, **shapes):
    return {f"{start}.{name}.weight": shape for name, shape in shapes.items()}


# What a sibling of timm has more, by name and shape, and what it lacks.
SIBLINGS = {
    "ConvNeXt V2": ({"stages.0.blocks.0.mlp.grn.weight": (16,)}, ("stages.0.blocks.0.gamma",)),
    "hidden layer in the head": ({"head.pre_logits.fc.weight": (10, 10)}, ()),
    "MLP of convolutions": ({"stages.0.blocks.0.mlp.fc1.weight": (16, 4, 1, 1)}, ()),
    "norm before the pool": ({"norm_pre.weight": (10,)}, ("head.norm.weight", "head.norm.bias")),
    "two convolutions in the stem": ({"stem.2.weight": (4,)}, ()),
    "no biases": ({}, ("stages.0.blocks.0.conv_dw.bias",)),
}


@pytest.mark.parametrize(("more", "less"), SIBLINGS.values(), ids=SIBLINGS)
def test_weights_of_a_sibling_are_refused(more, less, written):
    arrays = arrays_of("timm") | {name: np.ones(shape, np.float32) for name, shape in more.items()}
    for name in less:
        del arrays[name]
    with pytest.raises(InputError, match=[*more, *less][0]):
        read_checkpoint(written(arrays))


def test_weights_of_another_size_are_refused(written, tmp_path, capsys):
    file = written(arrays_of("torchvision"))
    assert convert("import", file, tmp_path / "weights", "--model=convnext_small") == 2
    assert "tiny_convnext" in user_error(capsys, alone=True)
    assert not (tmp_path / "weights").exists()


def test_branches_have_no_names_in_pytorch(tmp_path, capsys):
    network, model = tiny_convnext(), {"name": "tiny_convnext"}
    names = tuple(map(str, range(NUM_CLASSES)))
    specs = models.resolve_branches(model, "published")
    metadata = Metadata(model, specs, names, FAMILY.torch[0].preprocessing)
    weights = Weights(get_arrays(network), {}, metadata)
    with pytest.raises(InputError, match="branches"):
        write_checkpoint(tmp_path / "file.pth", weights)
    write_checkpoint(tmp_path / "file.pth", weights.without_branches())
