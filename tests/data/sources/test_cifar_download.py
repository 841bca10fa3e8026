"""Obtaining the archives of CIFAR: from a server of our own, by hand, and every way to fail."""

import errno
import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dks_jax.data.sources import cifar
from support.cifar_files import DATASETS, FOLDERS, NAMES, batches, check, refused, write_python
from support.web_server import serving


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served on this machine, with small archives in place of the published ones."""
    served = tmp_path / "served"
    with serving(served, monkeypatch) as address:
        for name in NAMES:
            folder = write_python(served, name, batches(name))
            archive = served / cifar.ARCHIVES[name].url.rpartition("/")[2]
            with tarfile.open(archive, "w:gz") as tar:
                tar.add(folder, folder.name)
            shutil.rmtree(folder)
            md5 = hashlib.md5(archive.read_bytes()).hexdigest()
            monkeypatch.setitem(cifar.ARCHIVES, name, cifar.Archive(f"{address}/{archive.name}", md5))
        yield served


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@DATASETS
def test_downloads_and_unpacks_once(publisher: Path, tmp_path: Path, name: str):
    root = tmp_path / "new" / "root"
    check(cifar.load(str(root), name), name, batches(name))
    archive = cifar.ARCHIVES[name].url.rpartition("/")[2]
    assert entries(root) == sorted([archive, FOLDERS[name, "python"]])
    shutil.rmtree(publisher)
    check(cifar.load(str(root), name), name, batches(name))


def test_an_archive_put_there_by_hand_is_unpacked(publisher: Path, tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (publisher / "cifar-10-python.tar.gz").rename(root / "cifar-10-python.tar.gz")
    check(cifar.load(str(root), "cifar10"), "cifar10", batches("cifar10"))
    assert entries(root) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


@pytest.mark.parametrize(
    ("name", "file", "md5"),
    [
        ("cifar10", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        ("cifar100", "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    ],
)
def test_another_archive_than_the_published_one_is_refused(tmp_path: Path, name: str, file: str, md5: str):
    (tmp_path / file).write_bytes(b"half of it")
    message = refused(tmp_path, name)
    expected = str(tmp_path / file), md5, f"https://www.cs.toronto.edu/~kriz/{file}"
    assert all(part in message for part in expected)
    assert entries(tmp_path) == [file]


def test_a_download_with_another_checksum_leaves_nothing(publisher: Path, tmp_path: Path):
    (publisher / "cifar-10-python.tar.gz").write_bytes(b"something else")
    assert cifar.ARCHIVES["cifar10"].md5 in refused(tmp_path / "new" / "root")
    assert not (tmp_path / "new").exists()


def test_without_network_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Nothing listens on port 1 of this machine.
    url = "http://127.0.0.1:1/cifar-10-python.tar.gz"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", cifar.ARCHIVES["cifar10"]._replace(url=url))
    root = tmp_path / "new" / "root"
    message = refused(root)
    assert str(root / "cifar-10-python.tar.gz") in message
    assert url in message
    assert not (tmp_path / "new").exists()


def test_an_archive_that_fails_to_unpack_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("another-folder"))
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", cifar.ARCHIVES["cifar10"]._replace(md5=md5))
    assert str(archive) in refused(tmp_path)
    assert entries(tmp_path) == ["cifar-10-python.tar.gz"]


def test_unpacking_accepts_what_another_process_unpacked_meanwhile(
    publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def rename_late(source: Path, target: Path) -> None:
        shutil.copytree(source, target)
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(os, "rename", rename_late)
    check(cifar.load(str(publisher), "cifar10"), "cifar10", batches("cifar10"))
