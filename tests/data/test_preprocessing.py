"""What is seen of an image against torchvision's own transforms of Pillow images, pixel for pixel."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dks_jax.data import preprocessing as views
from dks_jax.data.decoding import decode
from dks_jax.data.feeds.interface import Epochs
from dks_jax.data.feeds.streamed import StreamedTrainingFeed
from dks_jax.data.preparation import Preparation
from dks_jax.data.preprocessing import UndecodableError, View
from dks_jax.data.sources import folder
from dks_jax.runtime.devices import Devices
from support.real_torchvision import transforms

BICUBIC = transforms.InterpolationMode.BICUBIC


def torchvision(
    preprocessing: str, size: int, larger: int = 0, interpolation=transforms.InterpolationMode.BILINEAR
) -> transforms.Compose:
    """torchvision's transforms for one of the names of preprocessing; larger: the side before the crop."""
    larger = larger or round(size * 256 / 224)
    steps = {
        "squash": [transforms.Resize((size, size), BICUBIC)],
        "dks": [transforms.Resize((larger, larger), BICUBIC), transforms.CenterCrop(size)],
        "standard": [transforms.Resize(larger, interpolation), transforms.CenterCrop(size)],
    }
    return transforms.Compose(steps[preprocessing])


EVERY_PREPROCESSING = pytest.mark.parametrize("preprocessing", ["squash", "dks", "standard"])


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Blurred, as photographs are: most of its rows have neighbours like them."""
    random = np.random.default_rng(seed).integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), np.uint8)
    return Image.fromarray(random).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(60, 40), "JPEG", exif=exif)


PALETTE = noise(50, 41).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
FILES = {
    "PNG": encoded(noise(90, 60)),
    "JPEG": encoded(noise(61, 90), "JPEG"),
    "grey JPEG": encoded(noise(45, 60).convert("L"), "JPEG"),
    "CMYK JPEG": encoded(noise(60, 45).convert("CMYK"), "JPEG"),
    "palette": encoded(PALETTE),
    "palette with transparency": encoded(PALETTE, transparency=bytes(range(0, 160, 10))),
    "grey with transparency": encoded(noise(40, 50).convert("LA")),
    "rotated by EXIF": rotated(),
    "one row": encoded(noise(70, 1)),
    "one column": encoded(noise(1, 70)),
    "one pixel": encoded(noise(1, 1)),
    "long": encoded(noise(6000, 3)),
    "smaller than the crop": encoded(noise(9, 14)),
}


@EVERY_PREPROCESSING
@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_files_of_every_kind_are_seen_as_torchvision_sees_them(content, preprocessing):
    with Image.open(io.BytesIO(content)) as image:
        expected = torchvision(preprocessing, 32)(image.convert("RGB"))
    pixels = decode(io.BytesIO(content), View(32, preprocessing=preprocessing))
    np.testing.assert_array_equal(pixels, np.asarray(expected))


def test_a_png_that_is_named_jpeg_is_read(tmp_path: Path):
    path = tmp_path / "image.JPEG"
    path.write_bytes(FILES["PNG"])
    np.testing.assert_array_equal(folder.decode(path, View(32)), decode(io.BytesIO(FILES["PNG"]), View(32)))


def test_a_network_of_one_channel_sees_grey():
    expected = np.asarray(noise(32, 32).convert("L"))[..., None]
    pixels = decode(io.BytesIO(encoded(noise(32, 32))), View(32, channels=1))
    np.testing.assert_array_equal(pixels, expected)


@EVERY_PREPROCESSING
@given(width=st.integers(1, 300), height=st.integers(1, 300), size=st.integers(1, 64))
def test_images_of_any_size_are_seen_as_torchvision_sees_them(preprocessing, width, height, size):
    image = noise(width, height)
    seen = View(size, preprocessing=preprocessing).of(image, None)
    np.testing.assert_array_equal(np.asarray(seen), np.asarray(torchvision(preprocessing, size)(image)))


@EVERY_PREPROCESSING
@pytest.mark.parametrize(
    ("size", "ratio", "larger"),
    # torchvision's V2 recipe takes 224 of 232. A crop without a margin takes the entire short side.
    [(224, 0.9655, 232), (224, 0.95, 236), (32, 1, 32), (30, 0.5, 60)],
)
def test_the_crop_takes_another_share_as_torchvision_takes_it(preprocessing, size, ratio, larger):
    image = noise(250, 310)
    for interpolation in ("bilinear", "bicubic"):
        view = View(size, preprocessing=preprocessing, crop_ratio=ratio, interpolation=interpolation)
        expected = torchvision(preprocessing, size, larger, transforms.InterpolationMode(interpolation))
        np.testing.assert_array_equal(np.asarray(view.of(image, None)), np.asarray(expected(image)))


def test_the_usual_ratio_resizes_to_8_7_of_every_size():
    for size in range(1, 3000):
        assert views.before_crop(View(size)) == round(size * 256 / 224)


def test_photographs_are_seen_as_torchvision_sees_them():
    source = os.environ.get("DKS_TEST_DATA")
    if source is None:
        pytest.skip("DKS_TEST_DATA is unset: it names a folder with imagenet_samples/val")
    paths = sorted(Path(source, "imagenet_samples", "val").glob("*/*.JPEG"))
    assert len(paths) == 50
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for name in views.PREPROCESSING:
            seen = View(224, preprocessing=name).of(image, None)
            np.testing.assert_array_equal(np.asarray(seen), np.asarray(torchvision(name, 224)(image)))


def test_an_image_too_narrow_to_be_resized_is_refused(monkeypatch):
    # 256 * 12000 * 256 pixels.
    with pytest.raises(UndecodableError, match=r"12000 x 1 .*3072000 x"):
        decode(io.BytesIO(encoded(noise(12000, 1))), View(224, preprocessing="standard"))
    monkeypatch.setattr(views, "MAX_PIXELS", 8 * 16)
    small = View(7, preprocessing="standard")
    assert small.of(noise(10, 20), None).size == (7, 7)
    with pytest.raises(UndecodableError, match="8 x 17"):
        small.of(noise(20, 43), None)


class Draws:
    """Has torchvision draw what `numpy.random.default_rng(seed)` draws, in float64."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.patch = pytest.MonkeyPatch()

    def __enter__(self):
        def uniform(tensor, low, high):
            return tensor.fill_(self.rng.uniform(float(low), float(high)))

        self.patch.setattr(torch.Tensor, "uniform_", uniform)
        self.patch.setattr(
            torch, "randint", lambda low, high, size: torch.tensor(self.rng.integers(low, high))
        )
        # Brightness, contrast and saturation at random, then no change of hue.
        self.patch.setattr(torch, "randperm", lambda n: torch.tensor([*self.rng.permutation(n - 1), n - 1]))
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_):
        torch.set_default_dtype(torch.float32)
        self.patch.undo()


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_random_boxes_are_those_of_torchvision_for_the_same_draws(width, height, seed):
    with Draws(seed):
        top, left, h, w = transforms.RandomResizedCrop.get_params(
            Image.new("L", (width, height)), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)
        )
    box = views.random_box(width, height, np.random.default_rng(seed))
    assert box == (left, top, left + w, top + h)


@pytest.mark.parametrize(
    ("size", "box"),
    [((9, 900), (0, 444, 9, 456)), ((900, 9), (444, 0, 456, 9)), ((1, 6000), (0, 2999, 1, 3000))],
)
def test_very_long_images_are_cropped_in_the_middle(size, box):
    # 8 % of their area are longer than 4:3. The middle third of 12:9; 1 of 6000 rows.
    assert views.random_box(*size, np.random.default_rng(0)) == box


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("crop", "strongest"), [(True, 0.0), (True, 0.4), (False, 1.0)])
def test_random_crops_and_colours_are_those_of_torchvision_for_the_same_draws(mode, crop, strongest):
    view = View(32, 3 if mode == "RGB" else 1, "standard", random_resized_crop=crop, color_jitter=strongest)
    first = transforms.RandomResizedCrop(32) if crop else torchvision("standard", 32)
    expected = transforms.Compose([first, transforms.ColorJitter(strongest, strongest, strongest)])
    for seed in range(10):
        image = noise(60 + seed, 50, seed).convert(mode)
        with Draws(seed):
            transformed = expected(image)
        seen = view.of(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.asarray(seen), np.asarray(transformed))


def test_random_crops_can_be_resized_bicubically():
    view = View(32, random_resized_crop=True, interpolation="bicubic")
    for seed in range(5):
        image = noise(60 + seed, 50, seed)
        with Draws(seed):
            expected = transforms.RandomResizedCrop(32, interpolation=BICUBIC)(image)
        seen = view.of(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.asarray(seen), np.asarray(expected))


def test_nothing_is_random_without_a_generator():
    image = noise(50, 60)
    random = View(32, preprocessing="dks", random_resized_crop=True, color_jitter=0.4)
    assert random.of(image, None) == View(32, preprocessing="dks").of(image, None)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Thirteen times the same one, whatever the class."""
    root = tmp_path_factory.mktemp("photographs")
    for i in range(13):
        path = root / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES["PNG"])
    (root / "val").symlink_to(root / "train")
    return root


RANDOM_VIEW = View(8, random_resized_crop=True, color_jitter=0.4, policy="randaugment", train_size=9)


def seen_in(root: Path, *, seed=1, epoch=0, batch_size=4, num_threads=2, first=0) -> dict[int, bytes]:
    """The pixels of every example of an epoch as a streamed feed reads it."""
    split = folder.load(str(root), RANDOM_VIEW).train
    assert split.image_shape == (9, 9, 3)
    epochs = Epochs(split.num_examples, batch_size, False, seed)
    feed = StreamedTrainingFeed(split, Preparation((0,) * 3, (1,) * 3), epochs, Devices(), num_threads)
    return {
        int(index): np.asarray(image).tobytes()
        for chunk in feed.chunks(epoch, first)
        for index, image in zip(chunk.arrays["indices"], chunk.arrays["images"], strict=True)
    }


def test_the_random_part_depends_on_seed_epoch_and_example_alone(photographs: Path):
    expected = seen_in(photographs)
    assert len(set(expected.values())) == 13
    assert seen_in(photographs, num_threads=1, batch_size=13) == expected
    assert seen_in(photographs, num_threads=7, batch_size=2) == expected
    for other in (seen_in(photographs, seed=2), seen_in(photographs, epoch=1)):
        assert not set(other.values()) & set(expected.values())
    # The rest of an epoch that is entered after two batches.
    rest = seen_in(photographs, first=2)
    assert len(rest) == 13 - 2 * 4
    assert rest == {index: expected[index] for index in rest}


def test_the_part_that_is_seen_does_not_follow_from_the_order():
    # NumPy takes [seed, epoch] and [seed, epoch, 0, 0] for the same.
    drawn = {Epochs(9, 3, False, 5).generator(epoch, 0).random() for epoch in (0, 1)}
    assert not drawn & {np.random.default_rng([5, epoch]).random() for epoch in (0, 1)}
    assert len(drawn) == 2


def test_held_out_images_and_images_in_memory_are_seen_whole(photographs: Path):
    data = folder.load(str(photographs), RANDOM_VIEW)
    for size, split in ((8, data.test), (9, data.train)):
        expected = np.asarray(noise(90, 60).resize((size, size), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(split.in_memory().images, [expected] * 13)
