"""Small data sets that tfds writes here, without TensorFlow, against the arrays they were written from."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from dks_jax import train
from dks_jax.data.images import ImageData
from dks_jax.data.preprocessing import View
from dks_jax.data.sources import folder, tfds_description
from dks_jax.data.sources import tfds as tfds_source
from dks_jax.runtime.errors import InputError
from support.runs import DIGITS, records
from support.tfds_files import IMAGE, LABEL, edit, encoded, example, in_order, noise, prepare


def load(root: Path, name: str = "tiny", size: int = 6) -> ImageData:
    return tfds_source.load(str(root), name, View(size, 0))


def refused(root: Path, name: str, *parts: str) -> None:
    """Loading, or reading the first image, is refused in one line that has all the parts."""
    with pytest.raises(InputError) as caught:
        load(root, name).train.read(0)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == [], message


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


def test_images_and_labels_are_those_that_were_prepared(tiny: Path):
    data = load(tiny)
    assert data.class_names == ("apple", "bear", "clock")
    assert (data.train.num_examples, data.train.image_shape) == (20, (6, 6, 3))
    assert (data.test.num_examples, data.test.image_shape) == (5, (6, 6, 3))
    in_memory = data.in_memory(0, 0)
    for split, seeds in ((in_memory.train, range(20)), (in_memory.test, range(20, 25))):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert in_order(split) == sorted((noise(seed).tobytes(), seed % 3) for seed in seeds)


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
from {tfds_source.__name__} import load
from {View.__module__} import View
data = load({str(tiny)!r}, "tiny", View(4)).in_memory(0, 0)
assert data.train.images.shape == (20, 4, 4, 3)
assert data.test.images.shape == (5, 4, 4, 3)
assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc/self/fd to count open files")
def test_eight_threads_read_what_one_reads_and_leave_few_files_open(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
):
    # One reader for three files: threads close each other's all the time.
    monkeypatch.setattr(tfds_source, "OPEN_FILES", 1)
    split = load(tiny).train
    order = np.random.default_rng(0).integers(0, 20, 500).tolist()
    serial = [split.read(index) for index in range(20)]
    with ThreadPoolExecutor(8) as pool:
        for index, (image, label) in zip(order, pool.map(split.read, order), strict=True):
            np.testing.assert_array_equal(image, serial[index][0])
            assert label == serial[index][1]
    targets = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert sum(target.startswith(str(files(tiny) / "tiny-train")) for target in targets) == 1


def test_images_of_another_size_are_resized_as_those_of_a_folder(tmp_path: Path):
    photo = encoded(noise(9, height=40, width=17), "jpeg")
    (tmp_path / "photo.jpg").write_bytes(photo)
    features = {"image": IMAGE(), "label": LABEL(num_classes=2)}
    prepare(tmp_path, {name: [{"image": photo, "label": 0}] for name in ("train", "test")}, features=features)
    image, _ = load(tmp_path, size=12).train.read(0)
    np.testing.assert_array_equal(image, folder.decode(tmp_path / "photo.jpg", View(12)))


def test_a_data_set_of_grey_images_has_one_channel(tmp_path: Path):
    grey = noise(4)[..., 0]
    features = {"image": IMAGE(shape=(6, 6, 1)), "label": LABEL(num_classes=2)}
    examples = [{"image": encoded(grey), "label": 1}]
    prepare(tmp_path, {"train": examples, "test": examples}, features=features)
    data = load(tmp_path)
    assert data.train.image_shape == (6, 6, 1)
    np.testing.assert_array_equal(data.train.read(0)[0], grey[..., None])


def test_the_newest_version_is_read_unless_one_is_named(tmp_path: Path):
    for count, version in enumerate(["9.0.0", "10.0.0"], start=1):
        examples = [example(seed) for seed in range(count)]
        prepare(tmp_path, {"train": examples, "test": examples}, version=version)
    assert load(tmp_path).train.num_examples == 2
    assert load(tmp_path, "tiny:9.0.0").train.num_examples == 1


def test_a_configuration_is_named_after_a_slash(tmp_path: Path):
    for count, config in enumerate(["32x32", "64x64"], start=1):
        examples = [example(seed) for seed in range(count)]
        prepare(tmp_path, {"train": examples, "test": examples}, config=config)
    assert load(tmp_path, "tiny/32x32").train.num_examples == 1
    assert load(tmp_path, "tiny/64x64:1.0.0").train.num_examples == 2
    refused(tmp_path, "tiny", "`data.name`", "'tiny'", "tiny/32x32:1.0.0", "tiny/64x64:1.0.0")


def test_an_empty_root_is_the_default_of_tfds(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny))
    assert tfds_source.load("", "tiny", View(6)).train.num_examples == 20
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tensorflow_datasets").symlink_to(tiny)
    assert tfds_source.load("", "tiny", View(6)).train.num_examples == 20


UNLABELLED = example(0) | {"label": -1}


@pytest.mark.parametrize(
    ("held_out", "trained", "evaluated"),
    [
        ({"validation": [example(1)]}, 1, 1),
        ({"test": [example(2)]}, 2, 2),
        ({"validation": [example(1)], "test": [example(2)]}, 1, 2),
        ({"validation": [example(1)], "test": [UNLABELLED]}, 1, 1),
    ],
    ids=["no test", "no validation", "both", "test without labels"],
)
def test_training_holds_out_validation_and_evaluation_takes_test(
    tmp_path: Path, held_out: dict, trained: int, evaluated: int
):
    prepare(tmp_path, {"train": [example(0)], **held_out})
    np.testing.assert_array_equal(load(tmp_path).test.read(0)[0], noise(trained))
    split = tfds_source.load_held_out(str(tmp_path), "tiny", View(6)).split
    np.testing.assert_array_equal(split.read(0)[0], noise(evaluated))
    # A field chooses another split.
    chosen = tfds_source.load(str(tmp_path), "tiny", View(6), held_out="train")
    np.testing.assert_array_equal(chosen.test.read(0)[0], noise(0))
    with pytest.raises(InputError, match=r"`data\.held_out`"):
        tfds_source.load(str(tmp_path), "tiny", View(6), held_out="dev")


def test_the_label_is_the_declared_one(tmp_path: Path):
    prepare(tmp_path, {"train": [example(3)], "test": [example(3)]}, supervised=("image", "coarse_label"))
    data = load(tmp_path)
    assert data.train.read(0)[1] == 1
    assert data.class_names == ("0", "1")


def test_an_only_image_and_label_need_no_declaration(tmp_path: Path):
    features = {"picture": IMAGE(), "note": tfds.features.Text(), "kind": LABEL(num_classes=4)}
    examples = [{"picture": encoded(noise(1)), "note": "", "kind": 3}]
    prepare(tmp_path, {"train": examples, "test": examples}, features=features, supervised=None)
    image, label = load(tmp_path).train.read(0)
    np.testing.assert_array_equal(image, noise(1))
    assert label == 3


def test_loading_reads_the_first_record_of_a_split_alone(root: Path):
    _, *others = sorted(files(root).glob("tiny-train*"))
    for path in others:
        path.write_bytes(bytes(path.stat().st_size))
    split = load(root).train
    with pytest.raises(InputError, match=r"Record 19 .*train.*tiny:1\.0\.0"):
        split.read(19)


def test_nothing_that_the_files_name_is_imported(root: Path, monkeypatch: pytest.MonkeyPatch):
    (root / "harm.py").write_text("open('harm_was_done', 'w')")
    monkeypatch.syspath_prepend(root)
    monkeypatch.chdir(root)
    # The `id` is a feature that is not read.
    edit(files(root) / "features.json", "tensorflow_datasets.core.features.text_feature.Text", "harm.Text")
    edit(files(root) / "dataset_info.json", f'"moduleName": "{prepare.__module__}"', '"moduleName": "harm"')
    assert load(root).in_memory(0, 0).train.images.shape == (20, 6, 6, 3)
    assert "harm" not in sys.modules
    assert not (root / "harm_was_done").exists()


def test_the_checksum_tells_other_data_and_no_other_place(tiny: Path, root: Path, tmp_path: Path):
    data, moved = load(tiny), load(root)
    assert (data.train.checksum, data.test.checksum) == (moved.train.checksum, moved.test.checksum)
    seen = {data.train.checksum, data.test.checksum}
    for version, seeds in (("1.0.1", range(20)), ("1.0.0", range(19)), ("1.0.0", range(1, 21))):
        splits = {key: [example(seed) for seed in seeds] for key in ("train", "test")}
        prepare(tmp_path / f"{version}-{seeds}", splits, version=version, num_shards=3)
        seen.add(load(tmp_path / f"{version}-{seeds}").train.checksum)
    edit(files(root) / "label.labels.txt", "apple", "pear")
    seen.add(load(root).train.checksum)
    assert len(seen) == 6


@pytest.mark.parametrize("name", ["", "../tiny", "tiny:1", "kaggle:tiny"])
def test_a_malformed_name_is_refused(tiny: Path, name: str):
    refused(tiny, name, "`data.name`", repr(name), "cifar100:3.0.2")


def test_a_data_set_that_is_not_prepared_is_named_with_the_command(tiny: Path, tmp_path: Path):
    program = "python tools/prepare_dataset.py"
    refused(tiny, "mnist", "`data.name`", "`data.root`", f"{program} mnist --data_dir {tiny}")
    refused(tiny, "tiny:2.0.0", "'tiny:2.0.0'", "tiny:1.0.0", f"{program} tiny:2.0.0")
    refused(tmp_path / "a b", "tiny", f"--data_dir '{tmp_path / 'a b'}'")


@pytest.mark.parametrize(
    ("file", "supported", "other"),
    [("dataset_info.json", "array_record", "tfrecord"), ("features.json", "uint8", "uint16")],
)
def test_other_files_and_more_than_eight_bits_are_refused(root: Path, file: str, supported: str, other: str):
    edit(files(root) / file, supported, other)
    refused(root, "tiny", "`data.name`", other)


@pytest.mark.parametrize(
    ("features", "values", "named"),
    [
        (
            {"label": LABEL(num_classes=2), "map": tfds.features.LabeledImage(labels=2, shape=(6, 6, 1))},
            {"label": 0, "map": b""},
            ["no image", "label"],
        ),
        (
            {"left": IMAGE(), "right": IMAGE(), "label": LABEL(num_classes=2)},
            {"left": b"", "right": b"", "label": 0},
            ["left", "right", "label"],
        ),
    ],
)
def test_a_data_set_of_another_kind_is_refused(tmp_path: Path, features, values, named: list[str]):
    prepare(tmp_path, {"train": [values]}, features=features, supervised=None)
    refused(tmp_path, "tiny", "`data.name`", "tiny:1.0.0", *named)


@pytest.mark.parametrize(
    ("splits", "named"),
    [
        ({"test": [example(0)]}, ["train"]),
        ({"train": [example(0)]}, ["test", "validation"]),
        ({"train": [example(0)], "test": [UNLABELLED]}, ["test", "validation"]),
        ({"train": [UNLABELLED], "test": [example(0)]}, ["image 0", "train", "-1"]),
    ],
    ids=["no train", "no held-out split", "no held-out labels", "no training labels"],
)
def test_a_data_set_without_splits_or_labels_is_refused(tmp_path: Path, splits: dict, named: list[str]):
    prepare(tmp_path, splits)
    refused(tmp_path, "tiny", "`data.name`", "tiny:1.0.0", *named)


def test_an_absent_package_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        tfds_description, "find_spec", lambda name: None if name == "array_record" else object()
    )
    refused(tiny, "tiny", "array_record", "pip install 'dks-jax[tfds]'")


def remedy(root: Path) -> tuple[str, str]:
    """What to do where files are damaged."""
    return f"delete {files(root)}", f"python tools/prepare_dataset.py tiny --data_dir {root}"


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path):
    prepare(tmp_path, {"train": [example(0) | {"image": b"no image"}], "test": [example(1)]})
    refused(tmp_path, "tiny", "Image 0", "train", "tiny:1.0.0", *remedy(tmp_path))


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("dataset_info.json", None),
        ("features.json", None),
        ("tiny-test.array_record-00002-of-00003", None),
        ("dataset_info.json", lambda whole: b"[" * 10000),
        ("dataset_info.json", lambda whole: b'{"splits": 3}'),
        ("dataset_info.json", lambda whole: whole.replace(b"{SHARD_X_OF_Y}", b"{0}")),
        ("features.json", lambda whole: b""),
        ("features.json", lambda whole: b"\xff"),
        ("label.labels.txt", lambda whole: whole.replace(b"apple\n", b"")),
    ],
)
def test_an_absent_or_damaged_file_is_named(root: Path, name: str, damaged):
    path = files(root) / name
    whole = path.read_bytes()
    path.unlink()
    if damaged:
        path.write_bytes(damaged(whole))
    refused(root, "tiny", str(path), *remedy(root))


@given(data=st.data())
def test_a_damaged_file_of_records_is_an_input_error_or_yields_the_images(tiny: Path, data: st.DataObject):
    path = sorted(files(tiny).glob("tiny-train*"))[0]
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        # Half of the changes fall where the records are, and not into what fills the file up.
        position = data.draw(st.integers(0, 2000) | st.integers(0, len(whole) - 1))
        damaged = whole[:position] + data.draw(st.binary(min_size=1, max_size=100)) + whole[position + 100 :]
    image, label = load(tiny).train.read(0)
    try:
        path.write_bytes(damaged)
        read, number = load(tiny).train.read(0)
    except InputError:
        return
    finally:
        path.write_bytes(whole)
    np.testing.assert_array_equal(read, image)
    assert number == label


@pytest.mark.usefixtures("tiny_model")
def test_training_reads_it_as_it_needs_its_images(tiny: Path, tmp_path: Path):
    fields = ["source=tfds", "name=tiny", f"root={tiny}", "streamed=True", "batch_size=10"]
    fields += ["mean=(0.5,0.5,0.5)", "std=(0.25,0.25,0.25)", "padding=0"]
    arguments = [f"--config.data.{field}" for field in fields]
    arguments += ["--config.epochs=1", f"--workdir={tmp_path / 'run'}"]
    assert train.main([f"{DIGITS}:baseline", *arguments]) == 0
    assert [record["split"] for record in records(tmp_path / "run")] == ["train", "test"]
