"""Small data sets that tfds writes here, without TensorFlow, against the arrays they were written from."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dks_jax import train
from dks_jax.data import cifar, decoding, folder, tfds_source
from dks_jax.data.images import ImageData, Split
from dks_jax.data.views import View
from dks_jax.errors import InputError
from runs import DIGITS, records, without_speed
from test_cifar import DATASETS, FILES, NAMES, batches, pixels, write_binary

IMAGE = tfds.features.Image
LABEL = tfds.features.ClassLabel
# What a record of cifar100 holds.
FEATURES = {
    "id": tfds.features.Text(),
    "image": IMAGE(shape=(6, 6, 3)),
    "label": LABEL(names=["apple", "bear", "clock"]),
    "coarse_label": LABEL(num_classes=2),
}


def noise(seed: int, height: int = 6, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "png") -> bytes:
    """An image as tfds stores it; to encode an array itself, it needs TensorFlow."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind)
    return file.getvalue()


def example(seed: int) -> dict[str, Any]:
    return {"id": str(seed), "image": encoded(noise(seed)), "label": seed % 3, "coarse_label": seed % 2}


def prepare(
    root: Path,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    version: str = "1.0.0",
    config: str | None = None,
    features: Mapping[str, Any] = FEATURES,
    supervised: tuple[str, str] | None = ("image", "label"),
    num_shards: int | None = None,
) -> Path:
    """Has tfds write the data set "tiny"; returns its folder."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=supervised
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {name: self._generate_examples(examples) for name, examples in splits.items()}

        def _generate_examples(self, examples: Sequence[Mapping[str, Any]]) -> Iterable[tuple[int, Any]]:
            return enumerate(examples)

    builder = Tiny(data_dir=root, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=num_shards, try_download_gcs=False)
    )
    return Path(builder.data_dir)


def arrays(data: ImageData) -> tuple[Split, Split]:
    """Both splits in memory."""
    assert not isinstance(data.train, Split)
    assert not isinstance(data.test, Split)
    return data.train.in_memory(), data.test.in_memory()


def in_order(split: Split) -> list[tuple[bytes, int]]:
    """Images and labels in an order of their own: tfds shuffles what it writes."""
    pairs = zip(split.images, split.labels.tolist(), strict=True)
    return sorted((image.tobytes(), label) for image, label in pairs)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder with 20 training images in three files and 5 held-out images."""
    root = tmp_path_factory.mktemp("tfds")
    splits = {"train": [example(seed) for seed in range(20)], "test": [example(20 + i) for i in range(5)]}
    prepare(root, splits, num_shards=3)
    return root


@pytest.fixture
def root(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the data folder, to be damaged."""
    return Path(shutil.copytree(tiny, tmp_path / "data"))


def files(root: Path) -> Path:
    return root / "tiny" / "1.0.0"


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_images_and_labels_are_those_that_were_prepared(tiny: Path):
    data = tfds_source.load(str(tiny), "tiny", View(6))
    train, test = arrays(data)
    assert data.class_names == ("apple", "bear", "clock")
    assert (data.train.num_examples, data.train.image_shape) == (20, (6, 6, 3))
    assert (data.test.num_examples, data.test.image_shape) == (5, (6, 6, 3))
    for split, seeds in ((train, range(20)), (test, range(20, 25))):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert in_order(split) == sorted((noise(seed).tobytes(), seed % 3) for seed in seeds)


@DATASETS
def test_cifar_equals_what_the_cifar_source_reads_from_the_same_files(tmp_path: Path, name: str):
    binary = write_binary(tmp_path, name, batches(name, 7))

    def examples(*parts: str) -> list[dict[str, Any]]:
        content = np.concatenate([np.fromfile(binary / f"{part}.bin", np.uint8) for part in parts])
        rows = content.reshape(-1, 3074 if name == "cifar100" else 3073)
        images = zip(pixels(rows[:, -3072:]), rows[:, -3073].tolist(), strict=True)
        return [{"image": encoded(image), "label": label} for image, label in images]

    *train, test = FILES[name]
    features = {"image": IMAGE(shape=(32, 32, 3)), "label": LABEL(names=NAMES[name])}
    prepare(tmp_path, {"train": examples(*train), "test": examples(test)}, features=features)
    expected = cifar.load(str(tmp_path), name)
    data = tfds_source.load(str(tmp_path), "tiny", View(32))
    assert data.class_names == expected.class_names
    for ours, theirs in zip(arrays(data), (expected.train, expected.test), strict=True):
        assert isinstance(theirs, Split)
        assert in_order(ours) == in_order(theirs)


def test_reading_needs_no_tensorflow(tiny: Path):
    script = f"""
import importlib.machinery, sys

class Blocked:
    # TensorFlow is found, as where it is installed, and to import it fails.
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.partition(".")[0] == "tensorflow" else None
    def create_module(self, spec):
        raise ImportError("blocked")
    def exec_module(self, module):
        raise ImportError("blocked")

sys.meta_path.insert(0, Blocked())
from dks_jax.data import tfds_source
from dks_jax.data.views import View
data = tfds_source.load({str(tiny)!r}, "tiny", View(4))
assert data.train.in_memory().images.shape == (20, 4, 4, 3)
assert data.test.in_memory().images.shape == (5, 4, 4, 3)
assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_eight_threads_read_what_one_reads(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    # Two readers for three files: threads close each other's all the time.
    monkeypatch.setattr(tfds_source, "OPEN_FILES", 2)
    split = tfds_source.load(str(tiny), "tiny", View(6)).train
    assert not isinstance(split, Split)
    order = np.random.default_rng(0).integers(0, 20, 2000).tolist()
    serial = [split.read(index) for index in range(20)]
    with ThreadPoolExecutor(8) as pool:
        for index, (image, label) in zip(order, pool.map(split.read, order), strict=True):
            np.testing.assert_array_equal(image, serial[index][0])
            assert label == serial[index][1]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc/self/fd to count open files")
def test_few_files_are_open_at_once(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tfds_source, "OPEN_FILES", 1)
    split = tfds_source.load(str(tiny), "tiny", View(6)).train
    assert not isinstance(split, Split)
    for index in range(20):
        split.read(index)
    targets = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert sum(target.startswith(str(files(tiny) / "tiny-train")) for target in targets) == 1


def test_images_of_another_size_are_resized_as_those_of_a_folder(tmp_path: Path):
    photo = encoded(noise(9, height=40, width=17), "jpeg")
    (tmp_path / "photo.jpg").write_bytes(photo)
    features = {"image": IMAGE(), "label": LABEL(num_classes=2)}
    prepare(tmp_path, {name: [{"image": photo, "label": 0}] for name in ("train", "test")}, features=features)
    image, _ = tfds_source.load(str(tmp_path), "tiny", View(12)).train.read(0)
    np.testing.assert_array_equal(image, folder.decode(tmp_path / "photo.jpg", View(12)))


def test_a_data_set_of_grey_images_has_one_channel(tmp_path: Path):
    grey = noise(4)[..., 0]
    features = {"image": IMAGE(shape=(6, 6, 1)), "label": LABEL(num_classes=2)}
    examples = [{"image": encoded(grey), "label": 1}]
    prepare(tmp_path, {"train": examples, "test": examples}, features=features)
    data = tfds_source.load(str(tmp_path), "tiny", View(6))
    assert data.train.image_shape == (6, 6, 1)
    np.testing.assert_array_equal(data.train.read(0)[0], grey[..., None])


@pytest.mark.parametrize("mode", ["L", "P", "CMYK"])
def test_images_of_any_mode_become_rgb(tmp_path: Path, mode: str):
    kind = "jpeg" if mode == "CMYK" else "png"
    image = encoded(Image.fromarray(noise(5)).convert(mode), kind)
    with Image.open(io.BytesIO(image)) as opened:
        assert opened.mode == mode
        expected = np.asarray(opened.convert("RGB"))
    prepare(tmp_path, {name: [example(0) | {"image": image}] for name in ("train", "test")})
    np.testing.assert_array_equal(tfds_source.load(str(tmp_path), "tiny", View(6)).train.read(0)[0], expected)


def test_grey_is_what_pillow_makes_of_colours():
    expected = np.asarray(Image.fromarray(noise(6)).convert("L"))[..., None]
    np.testing.assert_array_equal(
        decoding.decode(io.BytesIO(encoded(noise(6))), View(6, channels=1)), expected
    )


def test_the_newest_version_is_read_unless_one_is_named(tmp_path: Path):
    for count, version in enumerate(["9.0.0", "10.0.0", "1.2.3"], start=1):
        examples = [example(seed) for seed in range(count)]
        prepare(tmp_path, {"train": examples, "test": examples}, version=version)
    assert tfds_source.load(str(tmp_path), "tiny", View(6)).train.num_examples == 2
    assert tfds_source.load(str(tmp_path), "tiny:9.0.0", View(6)).train.num_examples == 1
    assert tfds_source.load(str(tmp_path), "tiny:1.2.3", View(6)).train.num_examples == 3


def test_a_configuration_is_named_after_a_slash(tmp_path: Path):
    for count, config in enumerate(["32x32", "64x64"], start=1):
        examples = [example(seed) for seed in range(count)]
        prepare(tmp_path, {"train": examples, "test": examples}, config=config)
    assert tfds_source.load(str(tmp_path), "tiny/32x32", View(6)).train.num_examples == 1
    assert tfds_source.load(str(tmp_path), "tiny/64x64:1.0.0", View(6)).train.num_examples == 2
    with pytest.raises(
        InputError, match=r"does not hold 'tiny', only tiny/32x32:1\.0\.0, tiny/64x64:1\.0\.0: "
    ):
        tfds_source.load(str(tmp_path), "tiny", View(6))


def test_an_empty_root_is_the_default_of_tfds(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny))
    assert tfds_source.load("", "tiny", View(6)).train.num_examples == 20
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tensorflow_datasets").symlink_to(tiny)
    assert tfds_source.load("", "tiny", View(6)).train.num_examples == 20


def test_validation_is_held_out_where_there_is_no_test(tmp_path: Path):
    prepare(tmp_path, {"train": [example(0)], "validation": [example(1)]})
    np.testing.assert_array_equal(tfds_source.load(str(tmp_path), "tiny", View(6)).test.read(0)[0], noise(1))


def test_validation_is_held_out_where_the_test_split_has_no_labels(tmp_path: Path):
    unlabelled = [example(2) | {"label": -1}]
    prepare(tmp_path, {"train": [example(0)], "validation": [example(1)], "test": unlabelled})
    np.testing.assert_array_equal(tfds_source.load(str(tmp_path), "tiny", View(6)).test.read(0)[0], noise(1))


def test_validation_is_left_out_where_there_is_a_test_split(tmp_path: Path):
    prepare(tmp_path, {"train": [example(0)], "validation": [example(1)], "test": [example(2)]})
    np.testing.assert_array_equal(tfds_source.load(str(tmp_path), "tiny", View(6)).test.read(0)[0], noise(2))


def test_the_label_is_the_declared_one(tmp_path: Path):
    prepare(tmp_path, {"train": [example(3)], "test": [example(3)]}, supervised=("image", "coarse_label"))
    data = tfds_source.load(str(tmp_path), "tiny", View(6))
    assert data.train.read(0)[1] == 1
    assert data.class_names == ("0", "1")


def test_an_only_image_and_label_need_no_declaration(tmp_path: Path):
    features = {"picture": IMAGE(), "note": tfds.features.Text(), "kind": LABEL(num_classes=4)}
    examples = [{"picture": encoded(noise(1)), "note": "", "kind": 3}]
    prepare(tmp_path, {"train": examples, "test": examples}, features=features, supervised=None)
    image, label = tfds_source.load(str(tmp_path), "tiny", View(6)).train.read(0)
    np.testing.assert_array_equal(image, noise(1))
    assert label == 3


def test_loading_reads_the_first_record_of_a_split_alone(root: Path):
    _, *others = sorted(files(root).glob("tiny-train*"))
    for path in others:
        path.write_bytes(bytes(path.stat().st_size))
    data = tfds_source.load(str(root), "tiny", View(6))
    with pytest.raises(InputError, match=r"^Record 19 of the split train of tiny:1\.0\.0 cannot be read"):
        data.train.read(19)


def test_nothing_that_the_files_name_is_imported(root: Path, monkeypatch: pytest.MonkeyPatch):
    (root / "harm.py").write_text("open('harm_was_done', 'w')")
    monkeypatch.syspath_prepend(root)
    monkeypatch.chdir(root)
    # The `id` is a feature that is not read.
    edit(files(root) / "features.json", "tensorflow_datasets.core.features.text_feature.Text", "harm.Text")
    edit(files(root) / "dataset_info.json", '"moduleName": "test_tfds_source"', '"moduleName": "harm"')
    assert tfds_source.load(str(root), "tiny", View(6)).train.in_memory().images.shape == (20, 6, 6, 3)
    assert "harm" not in sys.modules
    assert not (root / "harm_was_done").exists()


def test_the_checksum_tells_other_data_and_no_other_place(tiny: Path, root: Path, tmp_path: Path):
    data, moved = (tfds_source.load(str(place), "tiny", View(6)) for place in (tiny, root))
    assert (data.train.checksum, data.test.checksum) == (moved.train.checksum, moved.test.checksum)
    assert data.train.checksum != data.test.checksum
    seen = {data.train.checksum}
    for version, seeds in (("1.0.1", range(20)), ("1.0.0", range(19)), ("1.0.0", range(1, 21))):
        examples = [example(seed) for seed in seeds]
        other = tmp_path / f"{version}-{seeds}"
        prepare(other, {"train": examples, "test": examples}, version=version, num_shards=3)
        seen.add(tfds_source.load(str(other), "tiny", View(6)).train.checksum)
    edit(files(root) / "label.labels.txt", "apple", "pear")
    seen.add(tfds_source.load(str(root), "tiny", View(6)).train.checksum)
    assert len(seen) == 5


def refuse(root: Path, name: str, sentence: str) -> None:
    """Loading raises InputError with one sentence that matches."""
    with pytest.raises(InputError, match=sentence) as caught:
        tfds_source.load(str(root), name, View(6))
    assert "\n" not in str(caught.value)


def remedy(root: Path) -> str:
    return rf"delete {files(root)} and run python tools/prepare_dataset\.py tiny --data_dir {root}\.$"


@pytest.mark.parametrize("name", ["", "a b", "../tiny", "tiny:1", "tiny/", "kaggle:tiny", "tiny/1/2"])
def test_a_malformed_name_is_refused(tiny: Path, name: str):
    refuse(tiny, name, "`data.name` must be a name of tfds, e.g. cifar100, .*; got ")


def test_a_data_set_that_is_not_prepared_is_named_with_the_command(tiny: Path, tmp_path: Path):
    start = "`data.name` must be a data set that is prepared in `data.root`; "
    command = r"run python tools/prepare_dataset\.py"
    end = r", or set data\.source=folder for a folder of images\.$"
    refuse(tiny, "mnist", rf"{start}{tiny} does not hold 'mnist': {command} mnist --data_dir {tiny}{end}")
    other = r"does not hold 'tiny:2\.0\.0', only tiny:1\.0\.0"
    refuse(tiny, "tiny:2.0.0", rf"{start}{tiny} {other}: {command} tiny:2\.0\.0 --data_dir {tiny}{end}")
    refuse(tmp_path / "a b", "tiny", rf"{command} tiny --data_dir '{tmp_path / 'a b'}'{end}")


def test_tfrecord_files_are_refused(root: Path):
    edit(files(root) / "dataset_info.json", "array_record", "tfrecord")
    refuse(
        root,
        "tiny",
        f"`data.name` must be a data set that is prepared as array_record files; {files(root)} holds "
        rf"tfrecord files: delete {files(root)} and run python tools/prepare_dataset\.py tiny --data_dir "
        rf"{root}, or choose another `data\.root`\.$",
    )


@pytest.mark.parametrize(
    ("features", "values", "finding"),
    [
        ({"text": tfds.features.Text()}, {"text": "a"}, "no image and no class label"),
        ({"image": IMAGE()}, {"image": b""}, "the images image and no class label"),
        (
            {"label": LABEL(num_classes=2), "map": tfds.features.LabeledImage(labels=2, shape=(6, 6, 1))},
            {"label": 0, "map": b""},
            "no image and the class labels label",
        ),
        (
            {"left": IMAGE(), "right": IMAGE(), "label": LABEL(num_classes=2), "age": LABEL(num_classes=2)},
            {"left": b"", "right": b"", "label": 0, "age": 0},
            "the images left, right and the class labels age, label",
        ),
    ],
)
def test_a_data_set_of_another_kind_is_refused(tmp_path: Path, features, values, finding: str):
    prepare(tmp_path, {"train": [values]}, features=features, supervised=None)
    refuse(
        tmp_path,
        "tiny",
        "`data.name` must be a data set for image classification, with one image and one class label; "
        rf"tiny:1\.0\.0 has {finding}\.$",
    )


def test_images_of_more_than_eight_bits_are_refused(root: Path):
    edit(files(root) / "features.json", '"dtype": "uint8"', '"dtype": "uint16"')
    refuse(
        root,
        "tiny",
        r"must be a data set of images with 8 bits per channel; those of tiny:1\.0\.0 are uint16\.$",
    )


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        (["test"], r"must be a data set with a split train; tiny:1\.0\.0 has test\.$"),
        (
            ["train"],
            r"must be a data set with a split test or validation with labels; tiny:1\.0\.0 has train\.$",
        ),
    ],
)
def test_a_data_set_without_the_splits_is_refused(tmp_path: Path, splits: list[str], sentence: str):
    prepare(tmp_path, {name: [example(0)] for name in splits})
    refuse(tmp_path, "tiny", f"`data.name` {sentence}")


def test_a_data_set_without_labels_is_refused(tmp_path: Path):
    prepare(tmp_path, {"train": [example(0)], "test": [example(0) | {"label": -1}]})
    refuse(tmp_path, "tiny", r"with a split test or validation with labels; tiny:1\.0\.0 has train, test\.$")


def test_an_image_without_a_label_is_named(tmp_path: Path):
    prepare(tmp_path, {"train": [example(0) | {"label": -1}], "test": [example(0)]})
    with pytest.raises(
        InputError,
        match=r"`data.name` must be a data set whose images all have a label; image 0 of the split train of "
        r"tiny:1\.0\.0 has the label -1, which is none of its 3 classes\.$",
    ):
        tfds_source.load(str(tmp_path), "tiny", View(6)).train.read(0)


@pytest.mark.parametrize(
    ("image", "finding"),
    [
        (b"no image", r"cannot be decoded as an image \(UnidentifiedImageError\)"),
        (
            encoded(noise(0, 40, 40))[:900],
            r"cannot be decoded as an image \(OSError\)",
        ),
        (encoded(np.full((6, 6), 1000, np.uint16)), "has the pixel mode I;16, which is more than 8 bits"),
    ],
)
def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path, image: bytes, finding: str):
    prepare(tmp_path, {"train": [example(0) | {"image": image}], "test": [example(1)]})
    split = tfds_source.load(str(tmp_path), "tiny", View(6)).train
    with pytest.raises(
        InputError, match=rf"^Image 0 of the split train of tiny:1\.0\.0 {finding}.*{remedy(tmp_path)}"
    ):
        split.read(0)


@pytest.mark.parametrize("package", ["tensorflow_datasets", "array_record"])
def test_an_absent_package_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch, package: str):
    monkeypatch.setattr(tfds_source, "find_spec", lambda name: None if name == package else object())
    refuse(
        tiny,
        "tiny",
        rf"need the package {package}, which is not installed; run pip install 'dks-jax\[tfds\]'\.$",
    )


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"splits": 3, "featuresDict": 3}', b"\xff", b"[" * 10000]
)
def test_a_damaged_description_is_named(root: Path, name: str, content: bytes):
    (files(root) / name).write_bytes(content)
    refuse(root, "tiny", rf"{files(root) / name} cannot be read \(\w+\); {remedy(root)}")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_an_absent_description_is_named(root: Path, name: str):
    (files(root) / name).unlink()
    refuse(root, "tiny", rf"{files(root) / name} cannot be read \(FileNotFoundError\); {remedy(root)}")


def test_a_damaged_template_of_the_file_names_is_named(root: Path):
    edit(files(root) / "dataset_info.json", "{SHARD_X_OF_Y}", "{0}")
    refuse(root, "tiny", rf"dataset_info\.json names no files of records; {remedy(root)}")


def test_missing_class_names_are_counted(root: Path):
    edit(files(root) / "label.labels.txt", "apple\n", "")
    refuse(root, "tiny", rf"label\.labels\.txt has 2 class names, not 3; {remedy(root)}")


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_absent_file_of_records_is_named(root: Path, split: str):
    path = sorted(files(root).glob(f"tiny-{split}*"))[-1]
    path.unlink()
    refuse(root, "tiny", rf"{path} is absent; {remedy(root)}")


def test_more_records_than_a_file_holds_are_refused(root: Path):
    path = files(root) / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"][0] = "1000"
    path.write_text(json.dumps(info))
    split = tfds_source.load(str(root), "tiny", View(6)).train
    with pytest.raises(InputError, match=r"^Record 999 of the split train of tiny:1\.0\.0 cannot be read"):
        split.read(999)


@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_file_of_records_is_an_input_error_or_yields_the_images(tiny: Path, data: st.DataObject):
    path = sorted(files(tiny).glob("tiny-train*"))[0]
    whole = path.read_bytes()
    expected = tfds_source.load(str(tiny), "tiny", View(6)).train
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        # Half of the changes fall where the records are, and not into what fills the file up.
        position = data.draw(st.integers(0, 2000) | st.integers(0, len(whole) - 1))
        damaged = whole[:position] + data.draw(st.binary(min_size=1, max_size=100)) + whole[position + 100 :]
    image, label = expected.read(0)
    reason = ""
    try:
        path.write_bytes(damaged)
        read, number = tfds_source.load(str(tiny), "tiny", View(6)).train.read(0)
    except InputError as error:
        reason = str(error)
    finally:
        path.write_bytes(whole)
    if reason:
        assert "Record 0 of the split train of tiny:1.0.0 cannot be read" in reason
    else:
        np.testing.assert_array_equal(read, image)
        assert number == label


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@settings(deadline=None)
@given(data=st.data())
def test_a_changed_byte_of_a_description_is_an_input_error_or_yields_images(
    tiny: Path, name: str, data: st.DataObject
):
    path = files(tiny) / name
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.binary(min_size=1, max_size=1))
    try:
        path.write_bytes(whole[:position] + byte + whole[position + 1 :])
        image, _ = tfds_source.load(str(tiny), "tiny", View(6)).train.read(0)
    except InputError:
        return
    finally:
        path.write_bytes(whole)
    assert image.shape[:2] == (6, 6)


@pytest.mark.usefixtures("tiny_model")
def test_training_on_it_gives_the_same_in_memory_and_streamed(tiny: Path, tmp_path: Path):
    logs = []
    for streamed in (False, True):
        fields = ["source=tfds", "name=tiny", f"root={tiny}", f"streamed={streamed}", "batch_size=8"]
        fields += ["mean=(0.5,0.5,0.5)", "std=(0.25,0.25,0.25)", "flip=True"]
        arguments = [f"--config.data.{field}" for field in fields]
        workdir = tmp_path / str(streamed)
        assert train.main([DIGITS, "--config.epochs=2", f"--workdir={workdir}", *arguments]) == 0
        logs.append([without_speed(line) for line in records(workdir)])
    assert logs[0] == logs[1]
    assert len(logs[0]) == 4
