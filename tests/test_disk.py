"""A disk that is full, read-only or gone: one sentence, and the last good checkpoint is untouched."""

import gc
import os
import shutil
import subprocess

import pytest

from comparison import assert_same_bits
from dks_jax.steps import Steps
from runs import last_checkpoint, records, run, without_speed

# What a state of the small network takes on disk, in MB: 7.6 are asked for.
CHECKPOINT = 6


def changes_mounts() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0


needs_root = pytest.mark.skipif(not changes_mounts(), reason="only root can mount and make folders immutable")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "unbroken"
    assert run(workdir) == 0
    return workdir


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many megabytes; returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(megabytes, *options):
        size = ",".join([f"size={int(1000 * megabytes)}k", *options])
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)
        return folder

    yield mount
    # Lazily, because a failed write leaves its file open until it is collected.
    subprocess.run(["umount", "-l", folder], check=True)


def after_training_call(monkeypatch, calls, action):
    """Does something after so many calls of the compiled training step."""
    whole, count = Steps.train, 0

    def call(*arguments):
        nonlocal count
        result = whole(*arguments)
        count += 1
        if count == calls:
            action()
        return result

    monkeypatch.setattr(Steps, "train", call)


def assert_one_sentence(capsys, *parts):
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    for part in parts:
        assert part in error


def assert_goes_on_to_the_same_end(workdir, unbroken):
    assert run(workdir) == 0
    assert_same_bits(last_checkpoint(workdir), last_checkpoint(unbroken))
    lines, expected = ([without_speed(line) for line in records(run)] for run in (workdir, unbroken))
    assert lines == expected


@needs_root
def test_a_disk_that_fills_up_keeps_the_last_checkpoint(unbroken, small_disk, capsys):
    disk = small_disk(2 * CHECKPOINT)
    assert run(disk / "run") == 2
    assert_one_sentence(
        capsys,
        "The checkpoint of step 4 cannot be written to",
        "No space left on device: 7.6 MB needed",
        "that of step 2 is whole",
    )
    assert [path.name for path in (disk / "run" / "checkpoints").iterdir()] == ["2"]
    subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
    assert_goes_on_to_the_same_end(disk / "run", unbroken)


@needs_root
@pytest.mark.parametrize(
    ("megabytes", "files"), [(0.004, set()), (0.2, {"config.json"}), (1.2, {"config.json"})]
)
def test_a_disk_without_room_is_one_sentence(small_disk, capsys, megabytes, files):
    disk = small_disk(megabytes)
    assert run(disk / "run") == 2
    assert_one_sentence(capsys, "No space left on device")
    left = {path.name for path in (disk / "run").iterdir()} if (disk / "run").exists() else set()
    assert files <= left
    assert not [name for name in left if "partial" in name or "weights" in name]
    gc.collect()


@needs_root
# What Orbax's threads were still about to do, Python tells whenever they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failure_while_orbax_writes_is_told_and_the_checkpoint_before_is_kept(
    unbroken, small_disk, monkeypatch, capsys
):
    # As where a quota is used up, of which the free room tells nothing.
    disk = small_disk(2 * CHECKPOINT)
    monkeypatch.setattr("dks_jax.checkpoint.require_room", lambda *_: None)
    assert run(disk / "run") == 2
    error = capsys.readouterr().err
    last = error.splitlines()[-1]
    assert last.startswith("error: The checkpoint of step ")
    assert "No space left on device" in last
    assert " is whole" in last
    monkeypatch.undo()
    gc.collect()
    subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
    assert_goes_on_to_the_same_end(disk / "run", unbroken)


@needs_root
def test_a_read_only_disk_is_told_at_the_start(unbroken, small_disk, capsys):
    disk = small_disk(100)
    shutil.copytree(unbroken, disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert run(disk / "other") == 2
    assert_one_sentence(capsys, "Read-only file system", str(disk / "other"))
    assert run(disk / "run") == 2
    assert_one_sentence(capsys, "Read-only file system")


@needs_root
@pytest.mark.parametrize("folder", ["checkpoints", pytest.param(".", marks=pytest.mark.slow)])
def test_an_immutable_folder(unbroken, tmp_path, monkeypatch, capsys, folder):
    immutable = tmp_path / "run" / folder
    try:
        with monkeypatch.context() as patch:
            after_training_call(patch, 4, lambda: subprocess.run(["chattr", "+i", immutable], check=True))
            assert run(tmp_path / "run") == 2
    finally:
        subprocess.run(["chattr", "-i", immutable], check=True)
    assert_one_sentence(capsys, "Operation not permitted")
    assert_goes_on_to_the_same_end(tmp_path / "run", unbroken)


@pytest.mark.parametrize("lost", ["run", "run/checkpoints"])
def test_a_lost_folder(tmp_path, monkeypatch, capsys, lost):
    after_training_call(monkeypatch, 1, lambda: shutil.rmtree(tmp_path / lost))
    assert run(tmp_path / "run") == 2
    assert_one_sentence(capsys, "No such file or directory", str(tmp_path / lost))
    assert not (tmp_path / lost).exists()
