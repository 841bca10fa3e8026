"""Image folders against Pillow used directly."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dks_jax.data import folder
from dks_jax.data.views import View
from dks_jax.errors import InputError


def load(*arguments, **counts):
    """All images that folder.load lists, decoded."""
    return folder.load(*arguments, **counts).in_memory(0, 0)


def noise(seed: int, height: int = 6, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, cat and dog, with one image each in train and in val."""
    for seed, place in enumerate(["train/dog", "train/cat", "val/cat", "val/dog"]):
        save(tmp_path / place / "image.png", noise(seed))
    return tmp_path


def test_images_of_the_size_asked_for_are_untouched(root: Path):
    data = load(str(root), View(6))
    assert data.class_names == ("cat", "dog")
    np.testing.assert_array_equal(data.train.images, [noise(1), noise(0)])
    np.testing.assert_array_equal(data.test.images, [noise(2), noise(3)])
    for split in (data.train, data.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.labels.tolist() == [0, 1]


def test_images_of_another_size_are_resized_bicubically(root: Path):
    pixels = noise(9, height=40, width=17)
    save(root / "train/cat/image.png", pixels)
    expected = Image.fromarray(pixels).resize((12, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(load(str(root), View(12)).train.images[0], np.asarray(expected))


def test_the_held_out_split_may_be_named_test_and_lack_classes(root: Path):
    (root / "val").rename(root / "test")
    (root / "test/cat/image.png").unlink()
    (root / "test/cat").rmdir()
    assert load(str(root), View(6)).test.labels.tolist() == [1]


def test_lists_any_depth_in_path_order_and_skips_hidden_and_foreign_files(root: Path):
    cat = root / "train/cat"
    for name in ["b.PNG", "a.JPeg", "deep/er/c.tif", "d.ppm", ".hidden.png", "._e.jpg", ".cache/f.png"]:
        save(cat / name, noise(0))
    (cat / "notes.txt").write_text("no image")
    (cat / "folder.png").mkdir()
    (root / "train/.ipynb_checkpoints").mkdir()
    save(root / "train/stray.png", noise(0))
    paths, labels = folder.list_images(root / "train", ("cat", "dog"))
    found = [path.relative_to(root / "train").as_posix() for path in paths]
    expected = ["a.JPeg", "b.PNG", "d.ppm", "deep/er/c.tif", "image.png"]
    assert found == [f"cat/{name}" for name in expected] + ["dog/image.png"]
    assert labels.tolist() == [0] * 5 + [1]


def test_takes_the_first_images_of_every_class(root: Path):
    for name in ("bird", "cat", "dog"):
        save(root / "train" / name / "zz.png", noise(9))
    everything, part = load(str(root), View(6)).train, load(str(root), View(6), train_per_class=1).train
    first = np.unique(everything.labels, return_index=True)[1]
    assert part.labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(part.images, everything.images[first])


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.jpeg", "a.png", "a.bmp", "a.gif", "a.webp", "a.tif", "a.tiff", "a.ppm"]
)
def test_decodes_every_format_as_pillow_does(tmp_path: Path, name: str):
    save(tmp_path / name, noise(2))
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(folder.decode(tmp_path / name, View(6)), expected)


def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path):
    grey = noise(4)[..., 0]
    save(tmp_path / "grey.pgm", grey)
    np.testing.assert_array_equal(
        folder.decode(tmp_path / "grey.pgm", View(6)), np.stack([grey] * 3, axis=-1)
    )
    transparent = np.dstack([noise(5), noise(6)[..., 0]])
    save(tmp_path / "transparent.png", transparent)
    np.testing.assert_array_equal(folder.decode(tmp_path / "transparent.png", View(6)), transparent[..., :3])


def test_refuses_images_with_more_than_eight_bits_of_grey(tmp_path: Path):
    save(tmp_path / "deep.png", np.full((6, 6), 1000, dtype=np.uint16))
    with pytest.raises(InputError, match=r"deep\.png has the pixel mode I;16"):
        folder.decode(tmp_path / "deep.png", View(6))


def test_pillow_warnings_are_not_errors(root: Path, monkeypatch: pytest.MonkeyPatch):
    palette = Image.fromarray(noise(0)).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    palette.save(root / "train/cat/palette.png", transparency=bytes(range(8)))
    with (
        Image.open(root / "train/cat/palette.png") as image,
        pytest.warns(UserWarning, match="Transparency"),
    ):
        image.convert("RGB")
    # The 36 pixels of every image are now more than the size that Pillow warns of.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    assert load(str(root), View(6)).train.images.shape == (3, 6, 6, 3)


def test_a_decompression_bomb_is_named(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"cat/image\.png cannot be decoded .*DecompressionBombError"):
        load(str(root), View(6))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_an_unreadable_image_is_named(root: Path, content: bytes):
    (root / "val/dog/image.png").write_bytes(content)
    with pytest.raises(InputError, match=r"val/dog/image\.png cannot be decoded"):
        load(str(root), View(6))


def test_a_link_to_nothing_is_named(root: Path):
    (root / "train/dog/lost.jpg").symlink_to(root / "absent.jpg")
    with pytest.raises(InputError, match=r"train/dog/lost\.jpg cannot be decoded"):
        load(str(root), View(6))


@pytest.fixture(scope="module", params=["jpg", "png", "bmp", "gif", "webp", "tif", "ppm"])
def encoded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoded") / f"whole.{request.param}"
    save(path, noise(8, height=16, width=16))
    return path


@given(data=st.data())
def test_a_truncated_image_is_an_input_error_or_whole(encoded: Path, data: st.DataObject):
    content = encoded.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path = encoded.with_stem("cut")
    path.write_bytes(content[:cut])
    try:
        pixels = folder.decode(path, View(16))
    except InputError:
        return
    # Some formats end in bytes that no pixel needs.
    np.testing.assert_array_equal(pixels, folder.decode(encoded, View(16)))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("", "there is no folder"),
        ("train", r"train is no folder"),
        ("val", "neither test nor val"),
    ],
)
def test_an_absent_folder_is_named(root: Path, missing: str, message: str):
    (root / missing).rename(root.with_name(f"{root.name}-moved-{missing}"))
    with pytest.raises(InputError, match=message):
        load(str(root), View(6))


def test_two_held_out_splits_are_refused(root: Path):
    (root / "test" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match=r"with class folders; .* both test and val"):
        load(str(root), View(6))


def test_test_images_without_classes_beside_val_are_no_split(root: Path):
    save(root / "test/image.png", noise(0))
    expected = load(str(root), View(6)).test.num_examples
    assert expected == load(str(root), View(6)).held_out.split.num_examples > 0


def test_a_class_without_training_images_is_named(root: Path):
    save(root / "val/emu/image.png", noise(0))
    with pytest.raises(InputError, match="val/emu is no class of the training split"):
        load(str(root), View(6))


def test_an_empty_class_and_an_empty_split_are_named(root: Path):
    (root / "train/emu").mkdir()
    with pytest.raises(InputError, match="train/emu holds no image"):
        load(str(root), View(6))
    (root / "bare").mkdir()
    with pytest.raises(InputError, match="bare holds no class folder"):
        folder.list_images(root / "bare", ("cat",))


def test_real_cifar10_images(tmp_path: Path):
    source = os.environ.get("DKS_TEST_DATA")
    if source is None:
        pytest.skip("DKS_TEST_DATA is unset: it names a folder with cifar10_test.tar.gz")
    with tarfile.open(Path(source) / "cifar10_test.tar.gz") as tar:
        few = [member for member in tar if member.name.endswith(("/0000.jpg", "/0001.jpg", "/0002.jpg"))]
        tar.extractall(tmp_path, few, filter="data")
    (tmp_path / "train").symlink_to(tmp_path / "test")
    data = load(str(tmp_path), View(32))
    assert data.class_names[:2] == ("airplane", "automobile")
    assert data.test.labels.tolist() == [label for label in range(10) for _ in range(3)]
    with Image.open(tmp_path / "test/ship/0001.jpg") as image:
        np.testing.assert_array_equal(data.test.images[8 * 3 + 1], np.asarray(image))
    np.testing.assert_array_equal(data.train.images, data.test.images)
