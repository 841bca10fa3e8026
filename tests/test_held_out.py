"""Held-out images without training images, from every source."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from dks_jax import configuration, data
from dks_jax.data import digits
from dks_jax.data.images import Split, StoredSplit, UnreadableError
from dks_jax.errors import InputError
from runs import CONFIGS
from test_tfds_source import FEATURES, example, noise, prepare


def fields(**values):
    """The `data` of a config with RGB images of 6x6 pixels."""
    values = {"image_size": 6, "mean": (0, 0, 0), "std": (1, 1, 1)} | values
    overrides = {f"data.{name}": str(value) for name, value in values.items()}
    return configuration.load(str(CONFIGS / "digits_wrn.py"), overrides).data


def stored(**values) -> tuple[StoredSplit, tuple[str, ...]]:
    config = fields(streamed=True, **values)
    data.check(config)
    split, class_names = data.load_held_out(config)
    assert isinstance(split, StoredSplit)
    return split, class_names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with val alone: a cat and two dogs."""
    for seed, name in enumerate(["cat/x.png", "dog/deep/y.png", "dog/z.png"]):
        path = tmp_path / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(seed)).save(path)
    return tmp_path


def test_a_folder_needs_no_training_images(root: Path):
    split, class_names = stored(source="folder", root=root)
    assert class_names == ("cat", "dog")
    assert [split.name(i) for i in range(3)] == ["val/cat/x.png", "val/dog/deep/y.png", "val/dog/z.png"]
    for i, label in enumerate([0, 1, 1]):
        image, read = split.read(i)
        np.testing.assert_array_equal(image, noise(i))
        assert read == label


def test_the_labels_of_a_folder_are_those_of_training(root: Path):
    for name in ("ant", "cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
    split, class_names = stored(source="folder", root=root)
    assert class_names == ("ant", "cat", "dog")
    assert [split.read(i)[1] for i in range(3)] == [1, 2, 2]
    (root / "train/cat").rmdir()
    with pytest.raises(InputError, match="val/cat is no class of the training split"):
        stored(source="folder", root=root)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_part_of_a_folder_can_be_taken(root: Path, streamed: bool):
    config = fields(source="folder", root=root, test_per_class=1, streamed=streamed)
    split, _ = data.load_held_out(config)
    if isinstance(split, StoredSplit):
        split = split.in_memory()
    assert split.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(split.images, [noise(0), noise(1)])


def test_a_folder_without_held_out_images_is_named(tmp_path: Path):
    (tmp_path / "train/cat").mkdir(parents=True)
    with pytest.raises(InputError, match="neither test nor val"):
        stored(source="folder", root=tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        stored(source="folder", root=tmp_path / "nowhere")


def test_a_broken_file_is_told_by_its_path(root: Path):
    (root / "val/dog/z.png").write_bytes(b"no image")
    split, _ = stored(source="folder", root=root)
    split.read(1)
    with pytest.raises(
        UnreadableError, match=r"z\.png cannot be decoded.*; replace it or remove it"
    ) as caught:
        split.read(2)
    assert caught.value.name == str(root / "val/dog/z.png")


def test_a_data_set_of_tfds_needs_no_training_images(tmp_path: Path):
    broken = example(2) | {"image": b"no image"}
    prepare(tmp_path, {"validation": [example(1), example(4), broken]})
    split, class_names = stored(source="tfds", name="tiny", root=tmp_path)
    assert class_names == ("apple", "bear", "clock")
    assert [split.name(i) for i in range(3)] == ["validation/0", "validation/1", "validation/2"]
    seen, unread = [], []
    for i in range(3):
        try:
            image, label = split.read(i)
            seen.append((image.tobytes(), label))
        except UnreadableError as error:
            unread.append((i, error.name, str(error)))
    assert sorted(seen) == sorted((noise(seed).tobytes(), 1) for seed in (1, 4))
    ((i, name, message),) = unread
    assert name == f"image {i} of the split validation of tiny:1.0.0"
    assert message.startswith(f"Image {i} of the split validation of tiny:1.0.0 cannot be decoded")


def test_a_damaged_record_is_told_by_its_place(tmp_path: Path):
    folder = prepare(tmp_path, {"test": [example(seed) for seed in range(6)]}, num_shards=2)
    last = sorted(folder.glob("tiny-test*"))[-1]
    last.write_bytes(bytes(last.stat().st_size))
    split, _ = stored(source="tfds", name="tiny", root=tmp_path)
    for read in (split.read, split.name):
        with pytest.raises(UnreadableError, match=r"^Record 5 of the split test of tiny:1") as caught:
            read(5)
        assert caught.value.name == "image 5 of the split test of tiny:1.0.0"


def test_names_are_those_of_the_files_that_tfds_was_made_of(tmp_path: Path):
    # As imagenet2012 has it.
    features = FEATURES | {"file_name": tfds.features.Text()}
    named = [example(seed) | {"file_name": f"{seed}.JPEG"} for seed in range(3)]
    prepare(tmp_path, {"validation": named}, features=features)
    split, _ = stored(source="tfds", name="tiny", root=tmp_path)
    for i in range(3):
        seed = int(split.name(i).removesuffix(".JPEG"))
        image, label = split.read(i)
        np.testing.assert_array_equal(image, noise(seed))
        assert label == seed % 3


def test_images_that_are_not_read_from_files_are_those_of_training():
    split, class_names = data.load_held_out(
        fields(source="digits", image_size=8, mean=(0,), std=(1,), test_per_class=2)
    )
    expected = digits.load()
    assert isinstance(split, Split)
    assert class_names == expected.class_names
    assert np.bincount(split.labels).tolist() == [2] * 10
    for label in range(10):
        ours, theirs = (part.images[part.labels == label][:2] for part in (split, expected.test))
        np.testing.assert_array_equal(ours, theirs)


def test_images_with_other_channels_than_the_config_are_refused(root: Path):
    shutil.rmtree(root / "val")
    grey = {name: FEATURES[name] for name in ("label", "id", "coarse_label")}
    grey["image"] = tfds.features.Image(shape=(6, 6, 1))
    prepare(root, {"test": [example(0)]}, features=grey)
    with pytest.raises(InputError, match=r"`data.mean` must hold one number for each of the 1 channels"):
        stored(source="tfds", name="tiny", root=root)
