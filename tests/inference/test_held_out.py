"""Held-out images without training images, from every source."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from dks_jax import data
from dks_jax.data.images import StoredSplit, UnreadableError
from dks_jax.models import load_config
from dks_jax.runtime.errors import InputError
from support.runs import CONFIGS
from support.tfds_files import FEATURES, example, noise, prepare


def fields(**values):
    """The `data` of a config with RGB images of 6x6 pixels."""
    values = {"image_size": 6, "mean": (0, 0, 0), "std": (1, 1, 1)} | values
    overrides = {f"data.{name}": str(value) for name, value in values.items()}
    return load_config(str(CONFIGS / "digits_wrn.py"), overrides).data


def stored(**values) -> tuple[StoredSplit, tuple[str, ...]]:
    config = fields(streamed=True, **values)
    data.check(config)
    held_out = data.load_held_out(data.resolve(config, training=False))
    assert isinstance(held_out.split, StoredSplit)
    return held_out.split, held_out.class_names


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
    part = data.load_held_out(fields(source="folder", root=root, test_per_class=1, channels=3)).split
    assert part.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(part.images, [noise(0), noise(1)])


def test_the_class_folders_of_training_are_listed_too(root: Path):
    for name in ("ant", "cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
    config = data.resolve(fields(source="folder", root=root), training=False)
    held_out = data.load_held_out(config)
    assert held_out.class_names == ("cat", "dog")
    assert held_out.listed == ("ant", "cat", "dog")


def test_a_folder_without_held_out_images_is_named(tmp_path: Path):
    (tmp_path / "train/cat").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=str(folder)):
            stored(source="folder", root=folder)


def test_a_data_set_of_tfds_needs_no_training_images(tmp_path: Path):
    # imagenet2012 keeps the names of the files that it was made of.
    features = FEATURES | {"file_name": tfds.features.Text()}
    named = [example(seed) | {"file_name": f"{seed}.JPEG"} for seed in range(3)]
    prepare(tmp_path, {"validation": named}, features=features)
    split, class_names = stored(source="tfds", name="tiny", root=tmp_path)
    assert class_names == ("apple", "bear", "clock")
    for i in range(3):
        seed = int(split.name(i).removesuffix(".JPEG"))
        image, label = split.read(i)
        np.testing.assert_array_equal(image, noise(seed))
        assert label == seed % 3


def test_a_damaged_record_and_a_broken_image_are_named_by_their_place(tmp_path: Path):
    broken = example(6) | {"image": b"no image"}
    examples = [*(example(seed) for seed in range(6)), broken]
    folder = prepare(tmp_path, {"test": examples}, num_shards=2)
    split, _ = stored(source="tfds", name="tiny", root=tmp_path)
    unread = []
    for i in range(7):
        try:
            split.read(i)
        except UnreadableError as error:
            unread.append(error.name == f"image {i} of the split test of tiny:1.0.0")
    assert unread == [True]
    last = sorted(folder.glob("tiny-test*"))[-1]
    last.write_bytes(bytes(last.stat().st_size))
    split, _ = stored(source="tfds", name="tiny", root=tmp_path)
    for read in (split.read, split.name):
        with pytest.raises(UnreadableError) as caught:
            read(6)
        assert caught.value.name == "image 6 of the split test of tiny:1.0.0"


def test_images_with_other_channels_than_the_config_are_refused(root: Path):
    shutil.rmtree(root / "val")
    grey = {name: FEATURES[name] for name in ("label", "id", "coarse_label")}
    grey["image"] = tfds.features.Image(shape=(6, 6, 1))
    prepare(root, {"test": [example(0)]}, features=grey)
    with pytest.raises(InputError, match=r"`data\.mean`"):
        stored(source="tfds", name="tiny", root=root)
