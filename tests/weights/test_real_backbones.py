"""Networks of torchvision and timm, taken over, run on photographs and handed back."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from dks_jax import evaluate
from dks_jax.weights import load_weights
from support.conversion import assert_same_file, convert
from support.real_torchvision import torchvision
from support.runs import CONFIGS
from support.tiny_convnexts import lively as lively_convnext
from support.tiny_vits import lively as lively_vit

PHOTOGRAPHS = os.environ.get("DKS_TEST_DATA")


class Real(NamedTuple):
    """A network of a library, and its preprocessing.

    make: gives it with random weights.
    transform: the library's own preparation of an image in evaluation.
    """

    make: Any
    transform: Any


def real(name):
    """The network of torchvision, or of timm, by its name there."""
    if name in torchvision.models.list_models():
        weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        return Real(lambda: torchvision.models.get_model(name), weights.transforms())
    timm = pytest.importorskip("timm")
    data = timm.data.resolve_model_data_config(timm.create_model(name))
    return Real(lambda: timm.create_model(name), timm.data.create_transform(**data))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags", "library"),
    [
        ("vit_b_16", [], "torchvision"),
        ("vit_b_32", [], "torchvision"),
        ("vit_small_patch16_224", [], "timm"),
        ("vit_small_patch32_224", [], "timm"),
        ("deit_small_patch16_224", ["--model=deit_s_16"], "timm"),
        ("convnext_tiny", [], "torchvision"),
        ("convnext_small", [], "torchvision"),
        ("convnext_base", [], "torchvision"),
        # Its plain name has weights for other images than those that are assumed.
        ("convnext_tiny.fb_in1k", [], "timm"),
        ("convnext_small.fb_in1k", [], "timm"),
    ],
)
def test_logits_on_photographs_are_those_of_the_library_which_takes_its_weights_back(
    name, flags, library, tmp_path, capsys
):
    if not PHOTOGRAPHS:
        pytest.skip("the environment variable DKS_TEST_DATA names no folder of images")
    torch.manual_seed(0)
    make, transform = real(name)
    network = (lively_convnext if name.startswith("convnext") else lively_vit)(make())
    paths = sorted(Path(PHOTOGRAPHS, "imagenet_samples").glob("val/*/*"))[::5]
    for path in paths:
        target = tmp_path / "images" / "val" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    before, after, folder = tmp_path / "before.pth", tmp_path / "after.pth", tmp_path / "weights"
    torch.save(network.state_dict(), before)
    assert convert("import", before, folder, *flags) == 0
    assert ("`--model`" in capsys.readouterr().out) == (name == "vit_small_patch16_224")
    own = load_weights(folder).metadata.preprocessing
    data = {"root": tmp_path / "images", "batch_size": 5, "preprocessing": own.name}
    data |= {"crop_ratio": own.crop_ratio, "interpolation": own.interpolation}
    command = [f"--config={CONFIGS / 'finetune_folder.py'}", f"--weights={folder}"]
    command += [f"--config.data.{field}={value}" for field, value in data.items()]
    assert evaluate.main([*command, f"--logits={tmp_path / 'logits.npy'}"]) == 0
    ours = np.load(tmp_path / "logits.npy")
    with torch.no_grad():
        images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
        theirs = network(images).numpy()
    assert ours.shape == (1, *theirs.shape)
    difference = np.abs(ours[0] - theirs).max() / np.abs(theirs).max()
    print(f"{name}, {len(theirs)} images: largest difference {difference:.1e}")
    assert difference < 1e-5
    assert convert("export", after, folder, f"--names={library}") == 0
    assert_same_file(before, after)
    make().load_state_dict(torch.load(after, weights_only=True), strict=True)
