"""Image folders against Pillow used directly."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dks_jax.data.images import ImageData
from dks_jax.data.preprocessing import View
from dks_jax.data.sources import folder
from dks_jax.runtime.errors import InputError


def load(root: Path, size: int = 6, **counts: int) -> ImageData:
    """All images that folder.load lists, decoded."""
    return folder.load(str(root), View(size), **counts).in_memory(0, 0)


def refused(root: Path, *parts: str) -> None:
    """Loading is refused in one line that has all the parts."""
    with pytest.raises(InputError) as caught:
        load(root)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == [], message


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
    data = load(root)
    assert data.class_names == ("cat", "dog")
    np.testing.assert_array_equal(data.train.images, [noise(1), noise(0)])
    np.testing.assert_array_equal(data.test.images, [noise(2), noise(3)])
    for split in (data.train, data.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.labels.tolist() == [0, 1]


def test_the_held_out_split_may_be_named_test_and_lack_classes(root: Path):
    (root / "val").rename(root / "test")
    (root / "test/cat/image.png").unlink()
    (root / "test/cat").rmdir()
    assert load(root).test.labels.tolist() == [1]


def test_lists_any_depth_in_path_order_and_skips_hidden_and_foreign_files(root: Path):
    cat = root / "train/cat"
    for name in ["b.PNG", "a.JPeg", "deep/er/c.tif", "d.ppm", "e.gif", "f.webp", "g.bmp"]:
        save(cat / name, noise(0))
    for name in [".hidden.png", "._e.jpg", ".cache/f.png"]:
        save(cat / name, noise(0))
    (cat / "notes.txt").write_text("no image")
    (cat / "folder.png").mkdir()
    (root / "train/.ipynb_checkpoints").mkdir()
    save(root / "train/stray.png", noise(0))
    listing = folder.list_split(root / "train")
    found = [path.relative_to(root / "train").as_posix() for path in listing.paths]
    expected = ["a.JPeg", "b.PNG", "d.ppm", "deep/er/c.tif", "e.gif", "f.webp", "g.bmp", "image.png"]
    assert found == [f"cat/{name}" for name in expected] + ["dog/image.png"]
    assert listing.labels.tolist() == [0] * 8 + [1]
    assert [note for name in ("notes.txt", "stray.png") for note in listing.notes if name in note] == [
        *listing.notes
    ]
    assert load(root).train.images.shape == (9, 6, 6, 3)


def test_takes_the_first_images_of_every_class(root: Path):
    for name in ("bird", "cat", "dog"):
        save(root / "train" / name / "zz.png", noise(9))
    everything, part = load(root).train, load(root, train_per_class=1).train
    first = np.unique(everything.labels, return_index=True)[1]
    assert part.labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(part.images, everything.images[first])


def test_images_with_more_than_eight_bits_of_grey_are_refused(root: Path):
    path = root / "train/cat/image.png"
    save(path, np.full((6, 6), 1000, dtype=np.uint16))
    refused(root, str(path), "I;16")


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
    assert load(root).train.images.shape == (3, 6, 6, 3)


def test_a_decompression_bomb_is_named(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    refused(root, "image.png", "DecompressionBombError")


@pytest.mark.parametrize("content", [b"no image", None], ids=["damaged", "a link to nothing"])
def test_an_unreadable_image_is_named(root: Path, content: bytes | None):
    path = root / "val/dog/lost.jpg"
    if content is None:
        path.symlink_to(root / "absent.jpg")
    else:
        path.write_bytes(content)
    refused(root, str(path))


@pytest.fixture(scope="module", params=["jpg", "png", "tif"])
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


@pytest.mark.parametrize("missing", ["", "train", "val"])
def test_an_absent_folder_is_named(root: Path, missing: str):
    (root / missing).rename(root.with_name(f"{root.name}-moved-{missing}"))
    refused(root, "`data.root`", missing)


def test_two_splits_of_one_kind_are_refused_unless_a_field_chooses(root: Path):
    save(root / "Validation/cat/image.png", noise(7))
    refused(root, "`data.held_out`", "val", "Validation")
    chosen = folder.load(str(root), View(6), held_out="Validation").in_memory(0, 0)
    np.testing.assert_array_equal(chosen.test.images, [noise(7)])


def test_with_train_val_and_test_training_takes_val_and_evaluation_takes_test(root: Path):
    save(root / "test/cat/image.png", noise(7))
    assert folder.find_splits(str(root), "", "", training=True) == ("train", "val")
    assert folder.find_splits(str(root), "", "", training=False) == ("train", "test")
    (root / "train").rename(root / "Training")
    (root / "val").rename(root / "valid")
    assert folder.find_splits(str(root), "", "", training=True) == ("Training", "valid")
    for field, name in (("held_out", "no"), ("train_split", "no")):
        with pytest.raises(InputError, match=f"`data.{field}`"):
            folder.find_splits(str(root), **{"train_split": "", "held_out": "", field: name}, training=True)


@pytest.mark.parametrize("splits", [["val"], ["val", "test"]])
def test_a_split_without_class_folders_is_refused_where_it_would_be_taken(root: Path, splits: list[str]):
    (root / "val").rename(root.with_name(f"{root.name}-moved"))
    for split in splits:
        save(root / split / "ILSVRC2012_1.JPEG", noise(0))
    refused(root, "`data.root`", "0 class folders", "ILSVRC2012_1.JPEG")
    with pytest.raises(InputError, match=r"`data.held_out` .* 0 class folders"):
        folder.find_splits(str(root), "", "val", training=True)


def test_a_half_sorted_split_is_refused(root: Path):
    save(root / "val/ILSVRC2012_1.JPEG", noise(0))
    refused(root, str(root / "val"), "1 images beside", "ILSVRC2012_1.JPEG")


def test_class_folders_without_a_split_are_refused_with_the_layout(root: Path):
    for split in ("train", "val"):
        (root / split).rename(root / f"class-{split}")
        save(root / f"class-{split}/image.png", noise(0))
    refused(root, "`data.root`", "class-train", "ROOT/SPLIT/CLASS/IMAGE")


def test_linked_folders_are_followed_and_loops_end(root: Path):
    save(root / "store/session/1.png", noise(7))
    (root / "val/cat/session").symlink_to(root / "store/session")
    (root / "val/cat/loop").symlink_to(root / "val/cat")
    (root / "val/cat/up").symlink_to(root)
    (root / "val/emu").symlink_to(root / "store/session")
    save(root / "train/emu/1.png", noise(8))
    listing = folder.list_split(root / "val")
    found = [path.relative_to(root / "val").as_posix() for path in listing.paths]
    assert [name for name in found if "up" not in name] == [
        *("cat/image.png", "cat/session/1.png", "dog/image.png", "emu/1.png")
    ]


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.jp2", "a.avif", "a", "a.txt"])
def test_every_file_that_pillow_reads_is_an_image(root: Path, name: str):
    formats = {".jp2": "JPEG2000", ".avif": "AVIF"}
    path = root / "val/cat" / name
    try:
        Image.fromarray(noise(7)).save(path, format=formats.get(path.suffix, "JPEG"))
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {path.suffix}")
    listing = folder.list_split(root / "val")
    assert path in listing.paths
    assert not listing.notes


def test_names_that_look_alike_are_refused(root: Path):
    for form in ("caf\u00e9", "cafe\u0301"):
        save(root / "val" / form / "1.png", noise(0))
    refused(root, "caf\\xe9", "cafe\\u0301")


def test_the_classes_of_the_held_out_split_are_those_of_train_by_name(root: Path):
    save(root / "train/caf\u00e9/1.png", noise(5))
    save(root / "val/cafe\u0301/1.png", noise(6))
    (root / "val/emu").mkdir()
    loaded = load(root)
    assert loaded.class_names == ("caf\u00e9", "cat", "dog")
    assert loaded.test.labels.tolist() == [0, 1, 2]
    assert any("emu" in note for note in loaded.notes)


def test_test_images_without_classes_beside_val_are_no_split(root: Path):
    save(root / "test/image.png", noise(0))
    np.testing.assert_array_equal(load(root).test.images, [noise(2), noise(3)])


def test_a_class_without_training_images_is_named(root: Path):
    save(root / "val/emu/image.png", noise(0))
    refused(root, "training split", "emu")


def test_an_empty_class_and_an_empty_split_are_named(root: Path):
    (root / "train/emu").mkdir()
    refused(root, str(root / "train"), "emu")
    for path in [*(root / "train").glob("*/*"), *(root / "train").iterdir()]:
        path.rmdir() if path.is_dir() else path.unlink()
    refused(root, "train")


def test_real_cifar10_images(tmp_path: Path):
    source = os.environ.get("DKS_TEST_DATA")
    if source is None:
        pytest.skip("DKS_TEST_DATA is unset: it names a folder with cifar10_test.tar.gz")
    with tarfile.open(Path(source) / "cifar10_test.tar.gz") as tar:
        few = [member for member in tar if member.name.endswith(("/0000.jpg", "/0001.jpg"))]
        tar.extractall(tmp_path, few, filter="data")
    (tmp_path / "train").symlink_to(tmp_path / "test")
    data = load(tmp_path, size=32)
    assert data.class_names[:2] == ("airplane", "automobile")
    assert data.test.labels.tolist() == [label for label in range(10) for _ in range(2)]
    with Image.open(tmp_path / "test/ship/0001.jpg") as image:
        np.testing.assert_array_equal(data.test.images[8 * 2 + 1], np.asarray(image))
