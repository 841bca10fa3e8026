"""CIFAR files in their real formats, written small, against the arrays that they were written from."""

import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dks_jax.data.sources import cifar
from dks_jax.runtime.errors import InputError
from support.cifar_files import (
    DATASETS,
    FILES,
    NAMES,
    batches,
    check,
    pixels,
    refused,
    write_binary,
    write_python,
)

ROWS = np.zeros((2, 3072), dtype=np.uint8)
WRITERS = {"python": write_python, "binary": write_binary}
FORMS = pytest.mark.parametrize("form", ["python", "binary"])


@DATASETS
@FORMS
def test_reads_both_published_forms(tmp_path: Path, name: str, form: str):
    content = batches(name)
    folder = WRITERS[form](tmp_path, name, content)
    check(cifar.load(str(tmp_path), name), name, content)
    check(cifar.load(str(folder), name), name, content)


@FORMS
def test_classes_are_numbered_where_their_names_are_absent(tmp_path: Path, form: str):
    (meta,) = WRITERS[form](tmp_path, "cifar10", batches("cifar10")).glob("*meta*")
    meta.unlink()
    assert cifar.load(str(tmp_path), "cifar10").class_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("protocol", "text", "labels"),
    [(2, str, np.asarray), (4, str.encode, list), (5, str, np.ndarray.tolist), (5, str.encode, np.asarray)],
)
def test_reads_what_other_programs_pickled(tmp_path: Path, protocol: int, text, labels):
    content = batches("cifar10")
    write_python(tmp_path, "cifar10", content, protocol=protocol, text=text, labels=labels)
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
    """Pickles as the call of a function, the setting of items of its result, and the setting of its state."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.call, self.state = (function, arguments), state
        self.items: list[tuple[Any, Any]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return *self.call, self.state, None, iter(self.items)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("file", ["test_batch", "batches.meta"])
def test_a_pickle_that_calls_something_is_refused_and_not_run(tmp_path: Path, protocol: int, file: str):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    target = tmp_path / "ran"
    (folder / file).write_bytes(pickle.dumps({"data": Call(os.system, f"touch {target}")}, protocol))
    message = refused(tmp_path)
    assert str(folder / file) in message
    assert f"{os.system.__module__}.system" in message
    assert not target.exists()


FROMBUFFER = ROWS.__reduce_ex__(5)[0]
# The state of a data type is version, byte order, subtype, names, fields, size, alignment, flags. NumPy does
# not notice that a type is one of objects where it has no flags.
OBJECTS = Call(np.dtype, "O", False, True, state=(3, "|", None, None, None, -1, -1, 0))
FAR_FIELD = {"x": (np.dtype("i8"), 1 << 40)}
FAR = Call(np.dtype, "V8", False, True, state=(3, "|", None, ("x",), FAR_FIELD, 8, 1, 0))


@pytest.mark.parametrize(
    "labels",
    [
        Call(np.ndarray, (2,), "O", b"A" * 16),
        Call(FROMBUFFER, b"A" * 16, OBJECTS, (2,), "C"),
        Call(FROMBUFFER, b"A" * 16, FAR, (2,), "C"),
    ],
    ids=["array of objects", "type of objects", "field beyond the end"],
)
def test_bytes_of_a_pickle_are_never_taken_for_addresses(tmp_path: Path, labels: Call):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    (folder / "test_batch").write_bytes(pickle.dumps({"data": ROWS, "labels": labels}))
    assert str(folder / "test_batch") in refused(tmp_path)


def test_an_array_outlives_the_memory_of_the_one_that_it_was_made_from(tmp_path: Path):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    rows = np.full((1000, 3072), 7, np.uint8)
    first = Call(
        FROMBUFFER, rows.tobytes(), rows.dtype, rows.shape, "C", state=(1, (0,), rows.dtype, False, b"")
    )
    second = Call(FROMBUFFER, first, rows.dtype, rows.shape, "C")
    # So that the second one is made before the first one gives its memory back.
    first.items = [(None, second)]
    batch = {"note": first, "data": second, "labels": [0] * len(rows)}
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    np.testing.assert_array_equal(cifar.load(str(tmp_path), "cifar10").test.images, pixels(rows))


@pytest.fixture(scope="module", params=[2, 5])
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
        assert "data_batch_1" in refused(pickled)
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


@pytest.mark.parametrize("put", [b"r" + struct.pack("<i", 10**7), b"p10000000\n"])
def test_a_damaged_memo_index_does_not_fill_the_memory(tmp_path: Path, put: bytes):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    (folder / "test_batch").write_bytes(b"\x80\x02}" + put + b".")
    tracemalloc.start()
    try:
        assert "test_batch" in refused(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "batch",
    [
        {"data": ROWS, "labels": [0, 10]},
        {"data": ROWS, "labels": [0, "1"]},
        {"data": ROWS, "labels": [0, 10**5000]},
        {"data": ROWS, "labels": np.array([0, -1])},
        {"data": ROWS, "labels": [0]},
        {"data": ROWS, "fine_labels": [0, 0]},
        {"data": ROWS[:0], "labels": []},
        {"data": ROWS[:, :3071], "labels": [0, 0]},
        {"data": ROWS.astype(np.int32), "labels": [0, 0]},
        {"data": ROWS.tolist(), "labels": [0, 0]},
        [ROWS, [0, 0]],
    ],
)
def test_a_wrong_batch_is_named(tmp_path: Path, batch: object):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    (folder / "data_batch_3").write_bytes(pickle.dumps(batch))
    assert str(folder / "data_batch_3") in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 3072, b"\x0a" + b"\x00" * 3072])
def test_a_wrong_binary_file_is_named(tmp_path: Path, content: bytes):
    folder = write_binary(tmp_path, "cifar10", batches("cifar10"))
    (folder / "data_batch_2.bin").write_bytes(content)
    assert str(folder / "data_batch_2.bin") in refused(tmp_path)


@FORMS
def test_an_absent_file_is_named(tmp_path: Path, form: str):
    folder = WRITERS[form](tmp_path, "cifar100", batches("cifar100"))
    (file,) = folder.glob("test*")
    file.unlink()
    assert str(file) in refused(tmp_path, "cifar100")


@pytest.mark.parametrize("names", [["a"] * 9, [1] * 10, "names"])
def test_wrong_class_names_are_refused(tmp_path: Path, names: object):
    folder = write_python(tmp_path, "cifar10", batches("cifar10"))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    assert str(folder / "batches.meta") in refused(tmp_path)


def test_an_unknown_name_and_a_file_as_root_are_refused(tmp_path: Path):
    message = refused(tmp_path, "cifar20")
    assert all(part in message for part in ("`data.name`", "cifar10, cifar100", "'cifar20'"))
    (tmp_path / "file").write_bytes(b"")
    message = refused(tmp_path / "file")
    assert all(part in message for part in ("`data.root`", str(tmp_path / "file")))
