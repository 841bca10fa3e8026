"""Weights of vision transformers by the names of torchvision and of timm, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch_forward

from dks_jax import InputError, models
from dks_jax.nn import get_arrays
from dks_jax.weights import (
    Metadata,
    Weights,
    adopt_weights,
    load_weights,
    read_checkpoint,
    torch_names,
    write_checkpoint,
)
from support.conversion import assert_same_file, convert
from support.tiny_vits import NUM_CLASSES, RECIPE, SIZE, families, lively, tiny_vit, torchvision_vit

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for name, family in families().items():
        monkeypatch.setitem(models.NETWORKS, name, family)


def test_weights_pass_through_the_names_of_both_libraries_unchanged(tmp_path):
    files = {name: tmp_path / f"{name}.pth" for name in ("before", "timm", "after")}
    first, second = tmp_path / "first", tmp_path / "second"
    torch.save(lively(torchvision_vit()).state_dict(), files["before"])
    assert convert("import", files["before"], first) == 0
    assert convert("export", files["timm"], first, "--names=timm", "--check") == 0
    assert convert("import", files["timm"], second, "--model=tiny_vit") == 0
    assert convert("export", files["after"], second) == 0
    assert_same_file(files["before"], files["after"])
    torchvision_vit().load_state_dict(torch.load(files["after"], weights_only=True), strict=True)


def test_the_plain_forward_pass_is_that_of_torchvision():
    network = lively(torchvision_vit())
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(torch_forward.logits(network.state_dict(), images)[0], expected)


def arrays_of_timm(size=SIZE):
    """Arrays of the network by timm's names."""
    arrays = get_arrays(tiny_vit(branches=(), model={"image_size": size}))
    return torch_names.to_torch(models.get_family("tiny_deit").torch[0], arrays)


@pytest.fixture
def written(tmp_path):
    """A function that writes arrays to a file and returns its path."""

    def write(arrays):
        file = tmp_path / "checkpoint.pth"
        torch.save({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, file)
        return file

    return write


def test_arrays_of_two_networks_are_taken_for_the_one_that_is_named_and_what_was_taken_is_said(written):
    file = written(arrays_of_timm())
    found = read_checkpoint(file)
    assert found.metadata.model == {"name": "tiny_vit", "image_size": SIZE}
    assert found.metadata.preprocessing.mean == (0.5, 0.5, 0.5)
    (remark,) = found.remarks
    assert "--model" in remark
    assert "tiny_deit" in remark
    for named in (read_checkpoint(file, "tiny_deit"), load_weights(file, model="tiny_deit")):
        assert named.metadata.model["name"] == "tiny_deit"
        assert named.metadata.preprocessing.mean == (0.485, 0.456, 0.406)
        assert not named.remarks
    assert not read_checkpoint(file, "tiny_vit").remarks
    # A preference of what it cannot be leaves the choice open.
    assert load_weights(file, model="resnet18").remarks


def test_the_size_follows_from_the_positions_and_the_head_may_be_absent(written):
    arrays = arrays_of_timm(size=24)
    found = read_checkpoint(written(arrays))
    assert found.metadata.model["image_size"] == 24
    assert found.metadata.preprocessing.shape == (24, 24, 3)
    assert len(found.metadata.class_names) == NUM_CLASSES
    backbone = {name: array for name, array in arrays.items() if not name.startswith("head.")}
    assert not read_checkpoint(written(backbone)).metadata.class_names


WIDTH = RECIPE.width
# What a sibling has more, by name and shape, and what it lacks.
SIBLINGS = {
    "distilled": ({"dist_token": (1, 1, WIDTH), "head_dist.bias": (7,), "pos_embed": (1, 18, WIDTH)}, ()),
    "registers": ({"reg_token": (1, 4, WIDTH), "pos_embed": (1, 16, WIDTH)}, ()),
    "layer scale": ({"blocks.0.ls1.gamma": (WIDTH,), "blocks.0.ls2.gamma": (WIDTH,)}, ()),
    "no class token": ({"fc_norm.bias": (WIDTH,), "pos_embed": (1, 16, WIDTH)}, ("cls_token", "norm.bias")),
    "norm of queries": ({"blocks.0.attn.q_norm.weight": (64,)}, ()),
    "no biases": ({}, ("blocks.0.attn.qkv.bias",)),
    "norm before the blocks": ({"norm_pre.weight": (WIDTH,)}, ()),
}


@pytest.mark.parametrize(("more", "less"), SIBLINGS.values(), ids=SIBLINGS)
def test_weights_of_a_sibling_are_refused(more, less, written):
    arrays = arrays_of_timm() | {name: np.ones(shape, np.float32) for name, shape in more.items()}
    for name in less:
        del arrays[name]
    with pytest.raises(InputError, match=[*more, *less][0]):
        read_checkpoint(written(arrays))


def test_weights_of_another_size_are_refused(written):
    weights = read_checkpoint(written(arrays_of_timm()))
    with pytest.raises(InputError, match=r"stem\.positions.*image_size 16"):
        adopt_weights(tiny_vit(model={"image_size": 24}), weights, Path("file"), weights.metadata.class_names)


def test_branches_have_no_names_in_pytorch(tmp_path):
    network, model = tiny_vit(), {"name": "tiny_vit", "image_size": SIZE}
    preprocessing = models.get_family("tiny_vit").torch[0].preprocessing
    names = tuple(map(str, range(NUM_CLASSES)))
    metadata = Metadata(model, models.resolve_branches(model, "published"), names, preprocessing)
    weights = Weights(get_arrays(network), {}, metadata)
    with pytest.raises(InputError, match="branches"):
        write_checkpoint(tmp_path / "file.pth", weights)
    write_checkpoint(tmp_path / "file.pth", weights.without_branches())
