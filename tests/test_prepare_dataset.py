"""The tool that prepares data sets: what it makes of small archives in the published formats, and refuses.

Most of it needs TensorFlow, as tfds does to prepare: pip install -e '.[prepare]'.
"""

import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import prepare_dataset
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums, downloader

from dks_jax.data import cifar, folder, tfds_source
from dks_jax.data.images import Split
from dks_jax.data.views import View
from imagenet_archives import photo, write_archives
from test_cifar import DATASETS, FOLDERS, batches, write_binary
from test_tfds_source import arrays, edit, in_order
from web_server import serving

NEEDS_TENSORFLOW = pytest.mark.skipif(
    find_spec("tensorflow") is None, reason="TensorFlow is not installed: pip install -e '.[prepare]'"
)
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


def refused(capsys: pytest.CaptureFixture[str], status: int) -> str:
    """The sentence on the last line of stderr; progress bars stand before it."""
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.endswith("\n")
    last = captured.err.splitlines()[-1]
    assert last.startswith("error: ")
    return last.removeprefix("error: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "The following arguments are required: NAME; see python tools/prepare_dataset.py --help."),
        (["cifar100", "--format=tfrecord"], "Unrecognized arguments: --format=tfrecord; see "),
        (["cifar100", "--data_dir"], "Argument --data_dir: expected one argument; see "),
        (
            ["cifar100", "--manual_dir=nowhere"],
            "`--manual_dir` must be a folder; there is no folder nowhere.",
        ),
    ],
)
def test_a_wrong_command_line_gets_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, prepare_dataset.main(arguments)).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["tensorflow_datasets", "importlib_resources", "tensorflow"])
def test_an_absent_package_is_named(package, places, monkeypatch, capsys):
    monkeypatch.setattr(tfds_source, "find_spec", lambda name: None if name == package else object())
    assert refused(capsys, run("cifar100", places)) == (
        f"Data sets of tfds need the package {package}, which is not installed; run pip install "
        "'dks-jax[prepare]'."
    )
    assert not places.data.parent.exists()


@NEEDS_TENSORFLOW
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cifar1000", "got 'cifar1000', the closest ones are cifar100, cifar10"),
        (
            "no such thing",
            "`NAME` must be a data set of tfds, NAME[/CONFIG][:VERSION]; got 'no such thing', ",
        ),
        ("huggingface:mnist", "got 'huggingface:mnist', "),
        ("", "got '', its catalogue has them all."),
        (
            "cifar100:9.9.9",
            "got 'cifar100:9.9.9': Dataset cifar100 cannot be loaded at version 9.9.9, only: 3.0.2.",
        ),
        ("imagenet_resized/9x9", "got 'imagenet_resized/9x9': BuilderConfig 9x9 not found"),
    ],
)
def test_an_unknown_data_set_is_refused(name, sentence, places, capsys):
    assert sentence in refused(capsys, run(name, places))
    assert not places.data.parent.exists()


@NEEDS_TENSORFLOW
@DATASETS
def test_cifar_through_tfds_equals_what_the_cifar_source_reads(name, places, monkeypatch, capsys):
    publish(monkeypatch, name, write_archive(places.manual, name))
    assert run(name, places) == 0
    expected = cifar.load(str(places.manual / "unpacked"), name)
    found = tfds_source.load(str(places.data), name, View(32))
    assert found.class_names == expected.class_names
    for ours, theirs in zip(arrays(found), (expected.train, expected.test), strict=True):
        assert isinstance(theirs, Split)
        assert in_order(ours) == in_order(theirs)
    # Seven images in every file.
    count = 35 if name == "cifar10" else 7
    assert capsys.readouterr().out == (
        f"{name}, version 3.0.2: {count} train, 7 test images in {places.data}/{name}/3.0.2; train with "
        f"--config.data.source=tfds --config.data.name={name} --config.data.root={places.data}\n"
    )
    assert [path.name for path in places.data.iterdir()] == [name]


@NEEDS_TENSORFLOW
def test_a_prepared_data_set_is_left_alone(places, monkeypatch, capsys):
    archive = write_archive(places.manual, "cifar10")
    publish(monkeypatch, "cifar10", archive)
    assert run("cifar10", places) == 0
    before = {path: path.stat().st_mtime_ns for path in places.data.rglob("*")}
    archive.unlink()
    first = capsys.readouterr().out
    assert run("cifar10:3.0.2", places) == 0
    assert capsys.readouterr() == (f"already prepared: {first}", "")
    assert {path: path.stat().st_mtime_ns for path in places.data.rglob("*")} == before


@NEEDS_TENSORFLOW
def test_a_folder_of_tfrecord_files_is_refused(places, monkeypatch, capsys):
    publish(monkeypatch, "cifar10", write_archive(places.manual, "cifar10"))
    assert run("cifar10", places) == 0
    capsys.readouterr()
    edit(places.data / "cifar10" / "3.0.2" / "dataset_info.json", "array_record", "tfrecord")
    assert refused(capsys, run("cifar10", places)) == (
        f"{places.data}/cifar10/3.0.2 exists and holds no array_record files; delete it or give another "
        "--data_dir."
    )


@NEEDS_TENSORFLOW
def test_a_damaged_data_set_is_named(places, capsys):
    (places.data / "cifar10" / "3.0.2").mkdir(parents=True)
    (places.data / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{")
    assert refused(capsys, run("cifar10", places)) == (
        f"{places.data}/cifar10 holds a damaged dataset_info.json; delete the folder that it is in."
    )


@NEEDS_TENSORFLOW
def test_another_archive_than_the_published_one_is_refused(places, capsys):
    archive = write_archive(places.manual, "cifar100")
    assert refused(capsys, run("cifar100", places)) == (
        "Artifact https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz, downloaded to "
        f"{archive}, has wrong checksum; put the published file into {places.manual}."
    )
    assert not places.data.parent.exists()


@NEEDS_TENSORFLOW
def test_what_tfds_cannot_use_is_named_and_leaves_nothing(places, monkeypatch, capsys):
    publish(monkeypatch, "cifar100", write_archive(places.manual, "cifar100", labels=19))
    sentence = refused(capsys, run("cifar100", places))
    assert sentence.startswith("tfds cannot prepare cifar100 (ValueError: ClassLabel number of names")
    assert sentence.endswith(
        f"; look at the files in {places.manual}, or try another version of tensorflow-datasets."
    )
    assert not places.data.parent.exists()


@NEEDS_TENSORFLOW
def test_an_interrupted_preparation_leaves_nothing(places, monkeypatch, capsys):
    def interrupt(*arguments: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    publish(monkeypatch, "cifar10", write_archive(places.manual, "cifar10"))
    monkeypatch.setattr(tfds.builder_cls("cifar10"), "_generate_examples", interrupt)
    assert run("cifar10", places) == 130
    assert capsys.readouterr().err.endswith(
        "interrupted: the same command starts again from the complete downloads\n"
    )
    assert not places.data.parent.exists()


@NEEDS_TENSORFLOW
def test_what_a_killed_preparation_left_is_removed_by_one_that_succeeds(places, monkeypatch):
    archive = write_archive(places.manual, "cifar10")
    cifar10, downloads = places.data / "cifar10", places.data / "downloads"
    script = f"""
import os, pathlib, signal, sys
import pytest
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(prepare_dataset.__file__).parent)!r}]
import test_prepare_dataset as test
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
    assert run("cifar10", places) == 2
    assert all(path.exists() for path in own + others)
    publish(monkeypatch, "cifar10", archive)
    assert run("cifar10", places) == 0
    assert not any(path.exists() for path in own)
    assert all(path.exists() for path in others)


@pytest.fixture
def address(places: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a web server for the served files."""
    with serving(places.served, monkeypatch) as address:
        yield address


@NEEDS_TENSORFLOW
def test_what_is_not_there_is_downloaded_and_kept(places, address, monkeypatch):
    archive = write_archive(places.served, "cifar10")
    publish(monkeypatch, "cifar10", archive, f"{address}/{archive.name}")
    assert run("cifar10", places) == 0
    assert tfds_source.load(str(places.data), "cifar10", View(32)).train.num_examples == 35
    kept = [path for path in (places.data / "downloads").rglob("*") if path.is_file()]
    assert archive.read_bytes() in [path.read_bytes() for path in kept]
    assert not list((places.data / "downloads").rglob("*incomplete*"))


@NEEDS_TENSORFLOW
def test_a_download_with_another_checksum_leaves_nothing(places, address, monkeypatch, capsys):
    archive = write_archive(places.served, "cifar10")
    publish(monkeypatch, "cifar10", archive, f"{address}/{archive.name}")
    archive.write_bytes(b"something else")
    sentence = refused(capsys, run("cifar10", places))
    assert sentence.endswith(f"has wrong checksum; put the published file into {places.manual}.")
    assert not places.data.parent.exists()


@NEEDS_TENSORFLOW
@pytest.mark.parametrize("failure", ["no page", "no network"])
def test_without_network_says_which_file_to_put_where(failure, places, address, monkeypatch, capsys):
    monkeypatch.setattr(downloader, "MAX_RETRIES", 0)
    archive = write_archive(places.served, "cifar10")
    # Nothing listens on port 1 of this machine.
    url = f"{address}/absent.tar.gz" if failure == "no page" else "http://127.0.0.1:1/cifar-10-binary.tar.gz"
    publish(monkeypatch, "cifar10", archive, url)
    sentence = refused(capsys, run("cifar10", places))
    assert sentence.startswith("cifar10 could not be downloaded (")
    assert f"{url} elsewhere and put the files into {places.manual}." in sentence
    assert not places.data.parent.exists()


@NEEDS_TENSORFLOW
@pytest.mark.parametrize("present", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", None])
def test_absent_files_of_imagenet_are_named(present, places, capsys):
    names = ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"]
    if present:
        (places.manual / present).touch()
        names.remove(present)
    assert refused(capsys, run("imagenet2012", places)) == (
        f"imagenet2012 is made of files put into {places.manual} by hand, which lacks {' and '.join(names)}: "
        "download them from https://image-net.org/download-images."
    )
    assert not places.data.parent.exists()


@NEEDS_TENSORFLOW
def test_instructions_for_files_by_hand_are_passed_on(places, capsys):
    status = prepare_dataset.main(["resisc45", f"--data_dir={places.data}"])
    assert refused(capsys, status).startswith(
        f"resisc45 is made of files put into {places.data}/downloads/manual by hand, which is empty: "
    )
    assert not places.data.parent.exists()


@NEEDS_TENSORFLOW
def test_imagenet_is_read_as_it_is_in_its_archives(places):
    # The first two classes; the published label of the first validation image is 65, the sea snake n01751748.
    classes = {"n01440764": [photo(0), photo(1)], "n01443537": [photo(2)]}
    write_archives(places.manual, classes, [photo(3)], [photo(4)])
    result = subprocess.run(
        [sys.executable, "-W", "error", prepare_dataset.__file__, *command("imagenet2012", places)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("imagenet2012, version 5.1.0: 3 train, 1 validation, 1 test images in ")
    assert result.stdout.count("\n") == 1
    # TensorFlow announces it unless it is told not to use it.
    assert "oneDNN" not in result.stderr
    images = tfds_source.load(str(places.data), "imagenet2012", View(32))
    assert len(images.class_names) == 1000
    assert images.test.name(0) == "ILSVRC2012_val_00000001.JPEG"
    train_split, test_split = arrays(images)
    assert sorted(train_split.labels.tolist()) == [0, 0, 1]
    assert [images.class_names[label] for label in test_split.labels] == ["n01751748"]
    (places.manual / "photo.jpg").write_bytes(photo(3))
    np.testing.assert_array_equal(test_split.images[0], folder.decode(places.manual / "photo.jpg", View(32)))
