"""CIFAR files in their real formats, written small, against the arrays that they were written from."""

import codecs
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dks_jax.data import cifar
from dks_jax.data.images import ImageData
from dks_jax.errors import InputError

FOLDERS = {
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar100", "python"): "cifar-100-python",
    ("cifar100", "binary"): "cifar-100-binary",
}
FILES = {
    "cifar10": [*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"],
    "cifar100": ["train", "test"],
}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}
NAMES = {
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "cifar100": [f"kind_{label}" for label in range(100)],
}
META = {
    "cifar10": ("batches.meta", "label_names"),
    "cifar100": ("meta", "fine_label_names"),
}
DATASETS = pytest.mark.parametrize("name", ["cifar10", "cifar100"])
ROWS = np.zeros((2, 3072), dtype=np.uint8)
Batch = tuple[np.ndarray, np.ndarray]


def batches(name: str, count: int = 2) -> list[Batch]:
    """Random rows and labels for every file of a data set, the last of them the test file."""
    rng = np.random.default_rng(7)
    classes = len(NAMES[name])
    return [
        (rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, classes, count))
        for _ in FILES[name]
    ]


def as_str(value: str) -> str | bytes:
    return value


def as_bytes(value: str) -> str | bytes:
    return value.encode()


def write_python(
    root: Path,
    name: str,
    content: list[Batch],
    *,
    protocol: int = 2,
    text: Callable[[str], str | bytes] = as_bytes,
    labels: Callable[[np.ndarray], Any] = np.ndarray.tolist,
) -> Path:
    folder = root / FOLDERS[name, "python"]
    folder.mkdir(parents=True)
    for file, (rows, targets) in zip(FILES[name], content, strict=True):
        batch = {text("batch_label"): text(file), text(LABELS[name]): labels(targets), text("data"): rows}
        (folder / file).write_bytes(pickle.dumps(batch, protocol))
    meta, key = META[name]
    (folder / meta).write_bytes(pickle.dumps({text(key): [text(entry) for entry in NAMES[name]]}, protocol))
    return folder


def write_binary(root: Path, name: str, content: list[Batch]) -> Path:
    folder = root / FOLDERS[name, "binary"]
    folder.mkdir(parents=True)
    coarse = b"" if name == "cifar10" else b"\x13"
    for file, (rows, targets) in zip(FILES[name], content, strict=True):
        records = [coarse + bytes([label]) + row.tobytes() for row, label in zip(rows, targets, strict=True)]
        (folder / f"{file}.bin").write_bytes(b"".join(records))
    meta = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
    (folder / meta).write_text("\n".join(NAMES[name]) + "\n\n")
    return folder


WRITERS = {"python": write_python, "binary": write_binary}
FORMS = pytest.mark.parametrize("form", ["python", "binary"])


def pixels(rows: np.ndarray) -> np.ndarray:
    """The images of some rows, one pixel after the other."""
    images = np.empty((len(rows), 32, 32, 3), dtype=np.uint8)
    for row in range(32):
        for column in range(32):
            for channel in range(3):
                images[:, row, column, channel] = rows[:, channel * 1024 + row * 32 + column]
    return images


def check(data: ImageData, name: str, content: list[Batch]) -> None:
    """Asserts that the data are the content and carry the class names."""
    *train, test = content
    for split, parts in ((data.train, train), (data.test, [test])):
        np.testing.assert_array_equal(split.images, pixels(np.concatenate([rows for rows, _ in parts])))
        np.testing.assert_array_equal(split.labels, np.concatenate([labels for _, labels in parts]))
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
    assert data.class_names == tuple(NAMES[name])


@DATASETS
@FORMS
def test_reads_both_published_forms(tmp_path: Path, name: str, form: str):
    content = batches(name)
    folder = WRITERS[form](tmp_path, name, content)
    check(cifar.load(str(tmp_path), name), name, content)
    check(cifar.load(str(folder), name), name, content)


@FORMS
def test_places_channel_row_and_column(tmp_path: Path, form: str):
    content = batches("cifar10", 1)
    content[-1][0][0] = [(90 * c + 5 * h + w) % 256 for c in range(3) for h in range(32) for w in range(32)]
    WRITERS[form](tmp_path, "cifar10", content)
    image = cifar.load(str(tmp_path), "cifar10").test.images[0]
    assert image[0, 0].tolist() == [0, 90, 180]
    assert image[0, 31].tolist() == [31, 121, 211]
    assert image[10, 3].tolist() == [53, 143, 233]


@DATASETS
@FORMS
def test_classes_are_numbered_where_their_names_are_absent(tmp_path: Path, name: str, form: str):
    folder = WRITERS[form](tmp_path, name, batches(name))
    for file in folder.glob("*meta*"):
        file.unlink()
    for file in folder.glob("*names*"):
        file.unlink()
    expected = tuple(str(label) for label in range(len(NAMES[name])))
    assert cifar.load(str(tmp_path), name).class_names == expected


@DATASETS
@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("text", [as_bytes, as_str])
@pytest.mark.parametrize("labels", [np.ndarray.tolist, np.asarray, list])
def test_reads_every_pickle_protocol(tmp_path: Path, name: str, protocol: int, text, labels):
    content = batches(name)
    write_python(tmp_path, name, content, protocol=protocol, text=text, labels=labels)
    check(cifar.load(str(tmp_path), name), name, content)


@pytest.mark.parametrize("protocol", range(6))
def test_reads_empty_strings(tmp_path: Path, protocol: int):
    content = batches("cifar10")
    folder = write_python(tmp_path, "cifar10", content, protocol=protocol)
    (rows, labels), file = content[-1], folder / "test_batch"
    batch = {b"batch_label": b"", b"labels": labels.tolist(), b"data": rows, b"note": ""}
    file.write_bytes(pickle.dumps(batch, protocol))
    check(cifar.load(str(tmp_path), "cifar10"), "cifar10", content)


@pytest.mark.parametrize("protocol", [2, 5])
def test_reads_rows_stored_in_column_order(tmp_path: Path, protocol: int):
    content = batches("cifar10", 3)
    stored = [(np.asfortranarray(rows), labels) for rows, labels in content]
    write_python(tmp_path, "cifar10", stored, protocol=protocol)
    check(cifar.load(str(tmp_path), "cifar10"), "cifar10", content)


def python2_batch(rows: np.ndarray, labels: np.ndarray) -> bytes:
    """A CIFAR-10 batch as Python 2 wrote it: protocol 2 with byte strings and the old module names."""
    raw = rows.tobytes()
    return b"".join(
        [
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(",
            b"".join(b"K" + bytes([label]) for label in labels),
            b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b",
            b"\x87Rq\x09(K\x01K"
            + bytes([len(rows)])
            + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87R",
            b"q\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T",
            struct.pack("<i", len(raw)) + raw + b"tb",
            b"U\x09filenamesq\x0c]q\x0dU\x05a.pngau.",
        ]
    )


def python2_meta() -> bytes:
    """The class names as Python 2 wrote them: protocol 0."""
    names = "".join(f"S'{entry}'\na" for entry in NAMES["cifar10"])
    return f"(dp1\nS'num_cases_per_batch'\np2\nI10000\nsS'label_names'\np3\n(lp4\n{names}s.".encode()


def test_reads_what_python2_wrote(tmp_path: Path):
    content = batches("cifar10")
    folder = write_python(tmp_path, "cifar10", content)
    for file, batch in zip(FILES["cifar10"], content, strict=True):
        (folder / file).write_bytes(python2_batch(*batch))
    (folder / "batches.meta").write_bytes(python2_meta())
    # The standard reader agrees that these are such files.
    reference = pickle.loads(python2_batch(*content[0]), encoding="latin1")
    np.testing.assert_array_equal(reference["data"], content[0][0])
    assert pickle.loads(python2_meta(), encoding="latin1")["label_names"] == NAMES["cifar10"]
    check(cifar.load(str(tmp_path), "cifar10"), "cifar10", content)


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("file", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_pickle_that_calls_something_is_refused_and_not_run(tmp_path: Path, protocol: int, file: str):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    target = tmp_path / "ran"
    (folder / file).write_bytes(pickle.dumps({"data": Call(os.system, f"touch {target}")}, protocol))
    with pytest.raises(InputError, match=rf"{file} refers to (posix|nt)\.system"):
        cifar.load(str(tmp_path), "cifar10")
    assert not target.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "numpy load",
        "numpy.core.multiarray fromstring",
        "numpy.core.multiarray ndarray",
        "os system",
    ],
)
def test_globals_off_the_list_are_refused(tmp_path: Path, name: str):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    (folder / "test_batch").write_bytes(b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n.")
    with pytest.raises(InputError, match=f"test_batch refers to {name.replace(' ', '.')}"):
        cifar.load(str(tmp_path), "cifar10")


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_listed_global_is_not_called_either(tmp_path: Path, protocol: int):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    # The real function would look up and run any codec by its name.
    batch = {"data": ROWS, "labels": [0, 0], "note": Call(codecs.encode, "a", "rot13")}
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol))
    with pytest.raises(InputError, match="test_batch is no complete pickle"):
        cifar.load(str(tmp_path), "cifar10")


@pytest.fixture(scope="module", params=range(2, 6))
def pickled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set of one image per file."""
    root = tmp_path_factory.mktemp("pickled")
    return write_python(root, "cifar10", batches("cifar10", 1), protocol=request.param)


@given(data=st.data())
def test_a_truncated_pickle_is_an_input_error(pickled: Path, data: st.DataObject):
    whole = (pickled / "data_batch_1").read_bytes()
    # Half of the cuts fall outside the pixels, where most of a pickle's structure is.
    cut = data.draw(st.integers(0, 300) | st.integers(0, len(whole) - 1))
    try:
        (pickled / "data_batch_1").write_bytes(whole[:cut])
        with pytest.raises(InputError, match="data_batch_1"):
            cifar.load(str(pickled), "cifar10")
    finally:
        (pickled / "data_batch_1").write_bytes(whole)


@given(data=st.data())
def test_a_changed_byte_is_an_input_error_or_yields_images(pickled: Path, data: st.DataObject):
    whole = (pickled / "data_batch_1").read_bytes()
    position = data.draw(st.integers(0, 300) | st.integers(0, len(whole) - 1))
    byte = data.draw(st.binary(min_size=1, max_size=1))
    try:
        (pickled / "data_batch_1").write_bytes(whole[:position] + byte + whole[position + 1 :])
        loaded = cifar.load(str(pickled), "cifar10")
    except InputError:
        return
    finally:
        (pickled / "data_batch_1").write_bytes(whole)
    assert loaded.train.images.shape == (5, 32, 32, 3)
    assert 0 <= loaded.train.labels.min() <= loaded.train.labels.max() < 10


@given(content=st.binary(max_size=40))
def test_any_bytes_are_an_input_error(pickled: Path, content: bytes):
    whole = (pickled / "data_batch_1").read_bytes()
    try:
        (pickled / "data_batch_1").write_bytes(content)
        with pytest.raises(InputError, match="data_batch_1"):
            cifar.load(str(pickled), "cifar10")
    finally:
        (pickled / "data_batch_1").write_bytes(whole)


def test_a_memo_index_beyond_the_file_is_damage(tmp_path: Path):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    (folder / "test_batch").write_bytes(b"\x80\x02}r" + (1_000_000).to_bytes(4, "little") + b".")
    with pytest.raises(InputError, match="test_batch is no complete pickle"):
        cifar.load(str(tmp_path), "cifar10")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": ROWS, "labels": [0, 10]}, "has a label outside 0 to 9 for image 1"),
        ({"data": ROWS, "labels": [-1, 0]}, "has a label outside 0 to 9 for image 0"),
        ({"data": ROWS, "labels": [0, "1"]}, "has a label outside 0 to 9 for image 1"),
        ({"data": ROWS, "labels": [0, 10**5000]}, "has a label outside 0 to 9 for image 1"),
        ({"data": ROWS, "labels": np.zeros(2)}, "has a label outside 0 to 9 for image 0"),
        ({"data": ROWS, "labels": [0]}, "has 2 images"),
        ({"data": ROWS[:0], "labels": []}, "has 0 images|refers to __builtin__.bytes"),
        ({"data": ROWS, "fine_labels": [0, 0]}, "has 2 images"),
        ({"data": ROWS[:, :3071], "labels": [0, 0]}, "has no images as rows of 3072 bytes"),
        ({"data": ROWS.astype(np.int16), "labels": [0, 0]}, "has no images as rows of 3072 bytes"),
        ({"data": ROWS.ravel(), "labels": [0, 0]}, "has no images as rows of 3072 bytes"),
        ({"data": ROWS.tolist(), "labels": [0, 0]}, "has no images as rows of 3072 bytes"),
        ({"labels": [0, 0]}, "has no images as rows of 3072 bytes"),
        ([ROWS, [0, 0]], "is no complete pickle"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_wrong_batch_is_named(tmp_path: Path, batch: object, message: str, protocol: int):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    (folder / "data_batch_3").write_bytes(pickle.dumps(batch, protocol))
    with pytest.raises(InputError, match=f"data_batch_3 ({message})"):
        cifar.load(str(tmp_path), "cifar10")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 images"),
        (b"\x00" * 3072, "has 3072 bytes, no multiple of 3073"),
        (b"\x0a" + b"\x00" * 3072, "has a label outside 0 to 9 for image 0"),
    ],
)
def test_a_wrong_binary_file_is_named(tmp_path: Path, content: bytes, message: str):
    folder = write_binary(tmp_path, "cifar10", batches("cifar10"))
    (folder / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(InputError, match=rf"data_batch_2\.bin {message}"):
        cifar.load(str(tmp_path), "cifar10")


@DATASETS
@FORMS
def test_an_absent_file_is_named(tmp_path: Path, name: str, form: str):
    folder = WRITERS[form](tmp_path, name, batches(name))
    file = folder / (FILES[name][-1] + (".bin" if form == "binary" else ""))
    file.unlink()
    with pytest.raises(InputError, match=f"{file.name} cannot be read"):
        cifar.load(str(tmp_path), name)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"] * 9, "9 class names, not 10"),
        ([1] * 10, "no list of class names"),
        ("names", "no list of class names"),
        (None, "no list of class names"),
    ],
)
def test_wrong_class_names_are_refused(tmp_path: Path, names: object, message: str):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    with pytest.raises(InputError, match=rf"batches\.meta has {message}"):
        cifar.load(str(tmp_path), "cifar10")


def test_an_unknown_name_and_a_file_as_root_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"`data.name` must be one of cifar10, cifar100; got 'cifar20'"):
        cifar.load(str(tmp_path), "cifar20")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="is a file"):
        cifar.load(str(tmp_path / "file"), "cifar10")
