"""What stands beside tensors is read as plain data or dropped; nothing that a file names is run."""

import builtins
import collections
import io
import os
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import torch

from dks_jax import InputError
from dks_jax.weights import torch_files
from dks_jax.weights.inert import Inert

# The dictionary of `test_numbers_and_arrays_of_this_numpy_are_read` as NumPy 1.26.4 writes it in protocol 2.
NUMPY_1 = (
    b"\x80\x02}q\x00(X\x04\x00\x00\x00bestq\x01cnumpy.core.multiarray\nscalar\nq\x02cnumpy\ndtype\nq\x03"
    b"X\x02\x00\x00\x00f8q\x04\x89\x88\x87q\x05Rq\x06(K\x03X\x01\x00\x00\x00<q\x07NNNJ\xff\xff\xff\xffJ"
    b"\xff\xff\xff\xffK\x00tq\x08bc_codecs\nencode\nq\tX\t\x00\x00\x00\x00\x00\x00\x00\x00\xc3\xa0Q@q\n"
    b"X\x06\x00\x00\x00latin1q\x0b\x86q\x0cRq\r\x86q\x0eRq\x0fX\x03\x00\x00\x00topq\x10h\x02h\x03X\x02\x00"
    b"\x00\x00i8q\x11\x89\x88\x87q\x12Rq\x13(K\x03h\x07NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x14"
    b"bh\tX\x08\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00q\x15h\x0b\x86q\x16Rq\x17\x86q\x18Rq\x19X\x04"
    b"\x00\x00\x00meanq\x1acnumpy.core.multiarray\n_reconstruct\nq\x1bcnumpy\nndarray\nq\x1cK\x00\x85q\x1d"
    b'h\tX\x01\x00\x00\x00bq\x1eh\x0b\x86q\x1fRq \x87q!Rq"(K\x01K\x03\x85q#h\x06\x89h\tX\x1b\x00\x00\x00'
    b"\x00\x00\x00\x00\x00\x00\xc3\x90?\x00\x00\x00\x00\x00\x00\xc3\xa0?\x00\x00\x00\x00\x00\x00\xc3\xa8?q$h"
    b"\x0b\x86q%Rq&tq'bX\x04\x00\x00\x00gridq(h\x1bh\x1cK\x00\x85q)h \x87q*Rq+(K\x01K\x02K\x03\x86q,h\x03"
    b"X\x02\x00\x00\x00i4q-\x89\x88\x87q.Rq/(K\x03h\x07NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq0b\x88"
    b"h\tX\x18\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00\x02\x00\x00\x00\x05\x00\x00"
    b"\x00q1h\x0b\x86q2Rq3tq4bX\x05\x00\x00\x00namesq5h\x1bh\x1cK\x00\x85q6h \x87q7Rq8(K\x01K\x02\x85q9"
    b"h\x03X\x02\x00\x00\x00U3q:\x89\x88\x87q;Rq<(K\x03h\x07NNNK\x0cK\x04K\x08tq=b\x89h\tX\x18\x00\x00\x00"
    b"a\x00\x00\x00n\x00\x00\x00t\x00\x00\x00b\x00\x00\x00e\x00\x00\x00e\x00\x00\x00q>h\x0b\x86q?Rq@tqA"
    b"bX\x03\x00\x00\x00oddqBh\x1bh\x1cK\x00\x85qCh \x87qDRqE(K\x01K\x02\x85qFh\x03X\x02\x00\x00\x00O8q"
    b"G\x89\x88\x87qHRqI(K\x03X\x01\x00\x00\x00|qJNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tqKb\x89]qL(NK"
    b"\x01etqMbu."
)


@pytest.fixture
def read(tmp_path):
    """Writes a checkpoint and reads it."""

    def read(content, **options):
        torch.save(content, tmp_path / "checkpoint.pth", **options)
        return torch_files.read(tmp_path / "checkpoint.pth")

    return read


@pytest.fixture
def read_pickle(tmp_path, read):
    """Reads a checkpoint of which the pickle is given."""

    def read_pickle(data):
        buffer = io.BytesIO()
        torch.save({}, buffer)
        with (
            zipfile.ZipFile(buffer) as empty,
            zipfile.ZipFile(tmp_path / "checkpoint.pth", "w") as archive,
        ):
            for name in empty.namelist():
                archive.writestr(name, data if name.endswith("/data.pkl") else empty.read(name))
        return torch_files.read(tmp_path / "checkpoint.pth")

    return read_pickle


def assert_numbers(content):
    assert (content["best"], content["top"]) == (71.5, 3)
    assert (content["best"].dtype, content["top"].dtype) == (np.float64, np.int64)
    np.testing.assert_array_equal(content["mean"], [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(content["grid"], [[0, 1, 2], [3, 4, 5]])
    assert content["grid"].dtype == np.int32
    assert content["names"].tolist() == ["ant", "bee"]
    assert content["odd"] is None


def test_numbers_and_arrays_of_numpy_1_are_read(read_pickle):
    assert b"numpy.core.multiarray" in NUMPY_1
    assert_numbers(read_pickle(NUMPY_1))


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_and_arrays_of_this_numpy_are_read(legacy, read):
    content = {
        "best": np.float64(71.5),
        "top": np.int64(3),
        "mean": np.array([0.25, 0.5, 0.75]),
        "grid": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "names": np.array(["ant", "bee"]),
        "odd": np.array([None, 1], dtype=object),
    }
    assert_numbers(read(content, _use_new_zipfile_serialization=not legacy))


class Config:
    """A class of a script."""

    def __init__(self, **fields):
        vars(self).update(fields)


class Fields(dict):
    """A dictionary of a script, with attributes."""


class Recorder:
    """Says what is done with it."""

    done = ()

    def __new__(cls, *_):
        Recorder.done += ("new",)
        return super().__new__(cls)

    def __setstate__(self, state):
        Recorder.done += ("state",)

    def __reduce_ex__(self, _):
        return Recorder, ("argument",), {"a": 1}


def test_objects_of_a_script_are_dropped(read):
    fields = Fields(lr=0.1)
    fields.frozen = True
    beside = {"config": Config(lr=0.1, inner=Config()), "fields": fields, "class": Config}
    content = read({"model": {"a": torch.ones(1)}, **beside})
    assert all(isinstance(content[name], Inert) for name in ("config", "fields"))
    assert content["class"] is Inert
    assert content["model"]["a"].shape == (1,)


def test_plain_containers_are_kept(read):
    beside = {"history": collections.defaultdict(list, {"loss": [1]}), "last": collections.deque([1, 2])}
    assert read(beside) == {"history": {"loss": [1]}, "last": [1, 2]}


def test_the_classes_of_a_file_are_not_even_made(read):
    saved = Recorder()
    Recorder.done = ()
    assert isinstance(read({"a": torch.ones(1), "b": saved})["b"], Inert)
    assert Recorder.done == ()


class Call:
    """Pickled, a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HARM = "made_by_the_file"
REFUSED = [
    (os.system, f"mkdir {HARM}"),
    (os.mkdir, HARM),
    (builtins.eval, f"__import__('os').mkdir({HARM!r})"),
    (builtins.exec, f"__import__('os').mkdir({HARM!r})"),
]
DROPPED = [
    (subprocess.check_call, ["mkdir", HARM]),
    (subprocess.Popen, ["mkdir", HARM]),
    (shutil.copytree, os.curdir, HARM),
    (torch.load, HARM),
    (open, HARM, "w"),
    (getattr, "text", "upper"),
]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("call", REFUSED + DROPPED, ids=lambda call: call[0].__name__)
def test_nothing_that_a_file_calls_is_run(call, legacy, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"model": {"a": torch.ones(1)}, "beside": Call(*call)}
    try:
        read(content, _use_new_zipfile_serialization=not legacy)
    except InputError:
        assert call in REFUSED or legacy
    else:
        assert call in DROPPED
    assert os.listdir(tmp_path) == ["checkpoint.pth"]


def test_a_stand_in_serves_one_file_alone(read):
    before = torch.serialization.get_safe_globals()
    read({"a": torch.ones(1), "config": Config(lr=0.1)})
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize(
    "damage",
    [(b"f8", b"O8"), (b"f8", b"V8"), (b"f8", b"f4"), (b"f8", b"f0"), (b"K\x03\x85", b"K\x09\x85")],
    ids=str,
)
def test_arrays_whose_bytes_do_not_fit_are_dropped(damage, read_pickle):
    before, after = damage
    content = read_pickle(NUMPY_1.replace(before, after))
    assert content["mean"] is None
    np.testing.assert_array_equal(content["grid"], [[0, 1, 2], [3, 4, 5]])
