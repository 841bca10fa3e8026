"""The measurement of the input pipelines: both sides give the same pixels, and every figure is there."""

import json

import benchmark
import numpy as np
import pytest
from benchmarks import pipelines, torch_input
from PIL import Image

from dks_jax.errors import InputError


def write_photographs(folder):
    """Two files, neither square, one of them in a folder of its own."""
    random = np.random.default_rng(0)
    for name, shape in (("a.jpg", (40, 60, 3)), ("b/c.jpg", (70, 50, 3))):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(path)
    return folder


def test_pipelines_are_measured_with_the_same_pixels_on_both_sides(tmp_path, tiny_model, capsys):
    del tiny_model
    folder, output = write_photographs(tmp_path / "photographs"), tmp_path / "result.json"
    options = {"num_cifar": 9, "num_decoded": 5, "batch_size": 2, "workers": 1, "steps": 2, "rounds": 1}
    flags = [f"--{name}={value}" for name, value in options.items()]
    assert benchmark.main(["input", f"--images={folder}", *flags, f"--json={output}"]) == 0
    printed = capsys.readouterr().out
    result = json.loads(output.read_text())
    assert result["options"] == options
    assert (result["num_files"], result["made"]) == (2, False)
    assert list(result["images_per_second"]) == ["cifar", "decoding, training", "decoding, evaluation"]
    for row, rates in result["images_per_second"].items():
        released = ["PyTorch as released"] if row == "cifar" else []
        assert list(rates) == ["dks_jax", "PyTorch", *released]
        assert all(len(own) == 1 and own[0] > 0 for own in rates.values())
    for name, own in result["steps"].items():
        assert own["seconds"][0] > 0
        assert 0 <= own["waits"][0] < 1
        line = next(line for line in printed.splitlines() if line.startswith(f"| {name} "))
        seconds = own["seconds"][0]
        assert f" {seconds / result['steps']['one batch']['seconds'][0]:.3f} " in line


def test_an_image_that_differs_in_one_pixel_is_refused():
    own = np.zeros((3, 2, 2), np.float32)
    theirs = own.copy()
    pipelines.require_one_of(own, [theirs + 1, theirs], "An image")
    theirs[0, 0, 0] = 1e-6
    with pytest.raises(InputError, match=r"^An image is not the same in dks_jax and in PyTorch"):
        pipelines.require_one_of(own, [theirs + 1, theirs], "An image")


@pytest.mark.parametrize(
    ("crops", "left"),
    # Mirrored after the crop and before it.
    [(torch_input.Crops, 8), (torch_input.ReleasedCrops, 0)],
)
def test_the_crops_of_pytorch_are_those_of_numpy(crops, left):
    images = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    dataset = crops(images, np.zeros(1, np.int32), mean, std)
    padded = np.pad((images[0] / 255 - mean) / std, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    expected = padded[1:7, 8:14][:, ::-1].transpose(2, 0, 1)
    np.testing.assert_allclose(
        dataset.crop(0, top=1, left=left, mirrored=True), expected, rtol=1e-5, atol=1e-6
    )


def test_made_files_are_jpegs_of_the_size_that_is_commonest_in_imagenet(tmp_path, monkeypatch):
    monkeypatch.setattr(pipelines, "NUM_MADE", 1)
    pipelines.write_jpegs(tmp_path)
    (path,) = tmp_path.iterdir()
    with Image.open(path) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (500, 375), "RGB")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps=0"], "`--steps` must be 1 or more; got 0."),
        (
            ["--num_decoded=7", "--batch_size=8"],
            "`--num_decoded` must fill a batch, 8 images or more; got 7.",
        ),
        (["--images=absent"], "`--images` must name a folder; there is no absent."),
    ],
)
def test_wrong_arguments_end_with_one_sentence(flags, message, capsys):
    assert benchmark.main(["input", *flags]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
