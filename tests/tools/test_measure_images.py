"""The tool that measures mean and deviation, against NumPy."""

import re

import measure_images
import numpy as np
import pytest
from PIL import Image

from support.by_heart import picture
from support.runs import CONFIGS, user_error

IMAGES = f"--config={CONFIGS / 'images.py'}"


@pytest.fixture
def root(tmp_path):
    for i in range(6):
        path = tmp_path / "images" / ("train", "val")[i % 2] / "ab"[i // 2 % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i)).save(path)
    return tmp_path / "images"


def test_it_prints_flags_for_training(root, capsys):
    fields = [
        f"--config.data.root={root}",
        "--config.data.image_size=8",
        "--config.data.preprocessing=squash",
    ]
    assert measure_images.main([IMAGES, *fields]) == 0
    pixels = np.stack([picture(i) for i in (0, 2, 4)]) / 255
    shown = capsys.readouterr().out
    for name, expected in (("mean", pixels.mean((0, 1, 2))), ("std", pixels.std((0, 1, 2)))):
        found = re.search(rf"'--config.data.{name}=\((.*?)\)'", shown)
        np.testing.assert_allclose([float(x) for x in found[1].split(",")], expected, rtol=1e-5)
    assert measure_images.main([IMAGES, *fields, "--config.data.channels=1"]) == 0
    assert "'--config.data.mean=(0." in capsys.readouterr().out


def test_it_names_all_images_that_cannot_be_read(root, capsys):
    for name in ("a/0.png", "b/2.png"):
        (root / "train" / name).write_bytes(b"no image")
    assert measure_images.main([IMAGES, f"--config.data.root={root}"]) == 2
    error = user_error(capsys, alone=True)
    assert "a/0.png" in error
    assert "b/2.png" in error
