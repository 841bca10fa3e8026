"""Exported weights are those that conversion writes."""

import convert_pytorch
import numpy as np
import pytest

from dks_jax import export
from dks_jax.models import Preprocessing, resolve_branches
from dks_jax.nn import get_arrays
from dks_jax.weights import Metadata, Weights, save_weights, torch_files
from support.networks import wide_resnet


@pytest.fixture(scope="module")
def weights(tmp_path_factory, quick_compilation):
    """Weights of a WRN-16-1 with its branches."""
    model = {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0}
    preprocessing = Preprocessing("squash", 8, 8, 3, (0.5,) * 3, (0.25,) * 3)
    metadata = Metadata(model, resolve_branches(model, "published"), tuple("abcdefg"), preprocessing)
    folder = tmp_path_factory.mktemp("weights") / "weights"
    save_weights(folder, Weights(get_arrays(wide_resnet(16, 1, 7)), {}, metadata))
    return folder


def tensors(file):
    content = torch_files.read(file)
    return {name: tensor.numpy() for name, tensor in content.get("params", content).items()}


@pytest.mark.parametrize("ending", ["safetensors", pytest.param("pth", marks=pytest.mark.slow)])
def test_they_are_the_plain_backbone_with_the_names_of_pytorch(ending, weights, tmp_path, capsys):
    own, converted = tmp_path / f"own.{ending}", tmp_path / f"converted.{ending}"
    assert export.main([f"--weights={weights}", f"--output={own}"]) == 0
    assert "batches of 1 and 8" in capsys.readouterr().out
    assert convert_pytorch.main(["export", f"--weights={weights}", f"--torch={converted}"]) == 0
    assert sorted(tmp_path.iterdir()) == sorted([own, converted])
    found, expected = tensors(own), tensors(converted)
    assert list(found) == list(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
