"""Obtaining the archives of CIFAR: from a server of our own, by hand, and every way to fail."""

import errno
import hashlib
import shutil
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dks_jax.data import cifar
from dks_jax.errors import InputError
from test_cifar import DATASETS, FOLDERS, NAMES, batches, check, write_python
from web_server import serving


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


def test_a_wrong_archive_put_there_by_hand_is_named(tmp_path: Path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half of it")
    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz has .*c58f30108f718f92721af3b95e74349a"):
        cifar.load(str(tmp_path), "cifar10")
    assert entries(tmp_path) == ["cifar-10-python.tar.gz"]


def test_a_download_with_another_checksum_leaves_nothing(publisher: Path, tmp_path: Path):
    (publisher / "cifar-10-python.tar.gz").write_bytes(b"something else")
    with pytest.raises(InputError, match=cifar.ARCHIVES["cifar10"].md5):
        cifar.load(str(tmp_path / "new" / "root"), "cifar10")
    assert not (tmp_path / "new").exists()


def test_a_missing_page_leaves_nothing(publisher: Path, tmp_path: Path):
    (publisher / "cifar-10-python.tar.gz").unlink()
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(InputError, match="HTTPError"):
        cifar.load(str(root), "cifar10")
    assert entries(root) == []


@DATASETS
def test_without_network_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    file = cifar.ARCHIVES[name].url.rpartition("/")[2]
    with socket.socket() as unused:
        # Bound and not listening, so that connections to it are refused.
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{file}"
        monkeypatch.setitem(cifar.ARCHIVES, name, cifar.Archive(url, cifar.ARCHIVES[name].md5))
        root = tmp_path / "new" / "root"
        with pytest.raises(InputError) as caught:
            cifar.load(str(root), name)
    message = str(caught.value)
    assert str(root / file) in message
    assert url in message
    assert "\n" not in message
    assert not (tmp_path / "new").exists()


def test_an_archive_that_fails_to_unpack_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("another-folder"))
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", cifar.ARCHIVES["cifar10"]._replace(md5=md5))
    with pytest.raises(InputError, match="could not be unpacked"):
        cifar.load(str(tmp_path), "cifar10")
    assert entries(tmp_path) == ["cifar-10-python.tar.gz"]


def test_unpacking_accepts_what_another_process_unpacked_meanwhile(
    publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def rename_late(source: Path, target: Path) -> None:
        shutil.copytree(source, target)
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(cifar.os, "rename", rename_late)
    check(cifar.load(str(tmp_path / "served"), "cifar10"), "cifar10", batches("cifar10"))


def test_the_published_addresses_are_the_publishers():
    assert cifar.ARCHIVES == {
        "cifar10": (
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
        ),
        "cifar100": (
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
        ),
    }
