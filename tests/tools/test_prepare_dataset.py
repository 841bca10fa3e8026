"""The tool that prepares data sets: what it makes of small archives in the published formats, and refuses.

Most of it needs TensorFlow, as tfds does to prepare: pip install -e '.[prepare]'.
"""

import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import prepare_dataset
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums, downloader

from dks_jax.data.images import Split
from dks_jax.data.preprocessing import View
from dks_jax.data.sources import cifar, tfds_description
from dks_jax.data.sources import tfds as tfds_source
from support.cifar_files import DATASETS, FOLDERS, batches, write_binary
from support.tensorflow import NEEDS_TENSORFLOW
from support.tfds_files import edit, in_order
from support.web_server import serving

ARCHIVES = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has what the tool sets for TensorFlow taken back."""
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")


class Places(NamedTuple):
    """Where a test has its files.

    data: of prepared data sets; not there yet.
    manual: of archives put there by hand.
    served: of archives for the web server.
    """

    data: Path
    manual: Path
    served: Path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    for name in ("manual", "served"):
        (tmp_path / name).mkdir()
    return Places(tmp_path / "new" / "data", tmp_path / "manual", tmp_path / "served")


def write_archive(place: Path, name: str, *, labels: int = 20) -> Path:
    """Puts an archive of the binary form of CIFAR, with few images, into a folder."""
    binary = write_binary(place / "unpacked", name, batches(name, 7))
    if name == "cifar100":
        (binary / "coarse_label_names.txt").write_text("".join(f"group_{i}\n" for i in range(labels)))
    with tarfile.open(place / ARCHIVES[name], "w:gz") as tar:
        tar.add(binary, FOLDERS[name, "binary"])
    return place / ARCHIVES[name]


def publish(monkeypatch: pytest.MonkeyPatch, name: str, archive: Path, url: str = "") -> None:
    """Has tfds take the archive for the published one, at another address if one is given."""
    builder = tfds.builder_cls(name)
    info = builder(data_dir="unused")._cifar_info
    monkeypatch.setattr(builder, "_cifar_info", info._replace(url=url or info.url))
    monkeypatch.setitem(builder.url_infos, url or info.url, checksums.compute_url_info(archive))


def command(name: str, places: Places) -> list[str]:
    return [name, f"--data_dir={places.data}", f"--manual_dir={places.manual}"]


def run(name: str, places: Places) -> int:
    return prepare_dataset.main(command(name, places))


@pytest.fixture
def refused(places: Places, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Runs the tool, which ends with status 2 and one line after its progress bars, and leaves nothing."""

    def refused(arguments: str | list[str], *parts: str, leaves_nothing: bool = True) -> None:
        capsys.readouterr()
        arguments = command(arguments, places) if isinstance(arguments, str) else arguments
        assert prepare_dataset.main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        last = captured.err.splitlines()[-1]
        assert last.startswith("error: ")
        assert [part for part in parts if part not in last] == [], last
        assert not (leaves_nothing and places.data.parent.exists())

    return refused


def test_a_wrong_command_line_is_refused(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused([], "NAME", "--help")
    refused(["cifar100", "--manual_dir=nowhere"], "`--manual_dir`", "nowhere")


def test_an_absent_package_is_named(refused, monkeypatch):
    absent = "importlib_resources"
    monkeypatch.setattr(tfds_description, "find_spec", lambda name: None if name == absent else object())
    refused("cifar100", absent, "pip install 'dks-jax[prepare]'")


@NEEDS_TENSORFLOW
@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("cifar1000", "cifar100, cifar10"),
        ("huggingface:mnist", "NAME[/CONFIG][:VERSION]"),
        ("cifar100:9.9.9", "3.0.2"),
        ("imagenet_resized/9x9", "imagenet_resized"),
    ],
)
def test_an_unknown_data_set_is_refused(name, accepted, refused):
    refused(name, "`NAME`", repr(name), accepted)


@NEEDS_TENSORFLOW
@DATASETS
def test_cifar_through_tfds_equals_what_the_cifar_source_reads(name, places, monkeypatch, capsys):
    publish(monkeypatch, name, write_archive(places.manual, name))
    assert run(name, places) == 0
    expected = cifar.load(str(places.manual / "unpacked"), name)
    found = tfds_source.load(str(places.data), name, View(32)).in_memory(0, 0)
    assert found.class_names == expected.class_names
    for ours, theirs in ((found.train, expected.train), (found.test, expected.test)):
        assert isinstance(theirs, Split)
        assert in_order(ours) == in_order(theirs)
    (line,) = capsys.readouterr().out.splitlines()
    flags = f"--config.data.source=tfds --config.data.name={name} --config.data.root={places.data}"
    assert line.endswith(flags)
    assert [path.name for path in places.data.iterdir()] == [name]


@NEEDS_TENSORFLOW
def test_a_prepared_data_set_is_left_alone(places, refused, monkeypatch, capsys):
    archive = write_archive(places.manual, "cifar10")
    publish(monkeypatch, "cifar10", archive)
    assert run("cifar10", places) == 0
    before = {path: path.stat().st_mtime_ns for path in places.data.rglob("*")}
    archive.unlink()
    first = capsys.readouterr().out
    assert run("cifar10:3.0.2", places) == 0
    assert capsys.readouterr() == (f"already prepared: {first}", "")
    assert {path: path.stat().st_mtime_ns for path in places.data.rglob("*")} == before
    # One of other files is not taken for it.
    folder = places.data / "cifar10" / "3.0.2"
    edit(folder / "dataset_info.json", "array_record", "tfrecord")
    refused("cifar10", str(folder), "array_record", "--data_dir", leaves_nothing=False)


@NEEDS_TENSORFLOW
def test_a_damaged_data_set_is_named(places, refused):
    (places.data / "cifar10" / "3.0.2").mkdir(parents=True)
    (places.data / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{")
    refused("cifar10", f"{places.data}/cifar10", "dataset_info.json", leaves_nothing=False)


@NEEDS_TENSORFLOW
def test_another_archive_than_the_published_one_is_refused(places, refused):
    archive = write_archive(places.manual, "cifar100")
    url = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    refused("cifar100", url, str(archive), "checksum")


@NEEDS_TENSORFLOW
def test_what_tfds_cannot_use_is_named_and_leaves_nothing(places, refused, monkeypatch):
    publish(monkeypatch, "cifar100", write_archive(places.manual, "cifar100", labels=19))
    refused("cifar100", "cifar100", "ValueError", str(places.manual))


@NEEDS_TENSORFLOW
def test_an_interrupted_preparation_leaves_nothing(places, monkeypatch):
    def interrupt(*arguments: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    publish(monkeypatch, "cifar10", write_archive(places.manual, "cifar10"))
    monkeypatch.setattr(tfds.builder_cls("cifar10"), "_generate_examples", interrupt)
    assert run("cifar10", places) == 130
    assert not places.data.parent.exists()


@NEEDS_TENSORFLOW
def test_what_a_killed_preparation_left_is_removed_by_one_that_succeeds(places, refused, monkeypatch):
    archive = write_archive(places.manual, "cifar10")
    cifar10, downloads = places.data / "cifar10", places.data / "downloads"
    script = f"""
import os, pathlib, signal, sys
import pytest
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(prepare_dataset.__file__).parent)!r}]
import {__name__} as test
test.publish(pytest.MonkeyPatch(), "cifar10", pathlib.Path({str(archive)!r}))
test.tfds.builder_cls("cifar10")._generate_examples = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
test.prepare_dataset.main({command("cifar10", places)!r})
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    own = [*cifar10.iterdir(), *downloads.iterdir()]
    assert [path.name.partition(".")[0] for path in own] == ["incomplete", "incomplete"]
    others = [
        cifar10 / "incomplete.ABCDEF_9.9.9",
        downloads / "incomplete.abcdefgh_cifar100_3.0.2",
        downloads / "cifar10" / "archive.tar.gz.tmp.0123",
    ]
    for path in others:
        path.mkdir(parents=True)
    # One that fails leaves them alone: another process may be at work there.
    refused("cifar10", "checksum", leaves_nothing=False)
    assert all(path.exists() for path in own + others)
    publish(monkeypatch, "cifar10", archive)
    assert run("cifar10", places) == 0
    assert not any(path.exists() for path in own)
    assert all(path.exists() for path in others)


@NEEDS_TENSORFLOW
def test_what_is_not_there_is_downloaded_and_kept(places, monkeypatch):
    archive = write_archive(places.served, "cifar10")
    with serving(places.served, monkeypatch) as address:
        publish(monkeypatch, "cifar10", archive, f"{address}/{archive.name}")
        assert run("cifar10", places) == 0
    assert tfds_source.load(str(places.data), "cifar10", View(32)).train.num_examples == 35
    kept = [path for path in (places.data / "downloads").rglob("*") if path.is_file()]
    assert archive.read_bytes() in [path.read_bytes() for path in kept]
    assert not list((places.data / "downloads").rglob("*incomplete*"))


@NEEDS_TENSORFLOW
def test_without_network_says_which_file_to_put_where(places, refused, monkeypatch):
    monkeypatch.setattr(downloader, "MAX_RETRIES", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # Nothing listens on port 1 of this machine.
    url = "http://127.0.0.1:1/cifar-10-binary.tar.gz"
    publish(monkeypatch, "cifar10", write_archive(places.served, "cifar10"), url)
    refused("cifar10", "cifar10", url, str(places.manual))


@NEEDS_TENSORFLOW
def test_absent_files_that_are_never_downloaded_are_named(places, refused):
    refused(["resisc45", f"--data_dir={places.data}"], "resisc45", f"{places.data}/downloads/manual")
    (places.manual / "ILSVRC2012_img_train.tar").touch()
    refused("imagenet2012", f"{places.manual}", "ILSVRC2012_img_val.tar", "https://image-net.org/")
