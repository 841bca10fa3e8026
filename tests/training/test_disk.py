"""A disk that is full, read-only or gone: one line, and the last good checkpoint is untouched."""

import gc
import shutil
import subprocess

import pytest

from dks_jax.training import checkpoints as checkpoint
from support.runs import after_call, assert_same_end, run, user_error, whole_checkpoints
from support.small_disk import needs_root

pytestmark = pytest.mark.usefixtures("tiny_model")


def fill(disk, room):
    """Leaves so many bytes free."""
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - room))


def assert_goes_on_to_the_same_end(workdir, unbroken):
    assert run(workdir) == 0
    assert_same_end(workdir, unbroken)


@needs_root
def test_a_disk_that_fills_up_keeps_the_last_checkpoint(unbroken, small_disk, monkeypatch, capsys):
    disk = small_disk(20)
    with monkeypatch.context() as patch:
        after_call(patch, "train", 3, lambda: fill(disk, 500_000))
        assert run(disk / "run") == 2
    error = user_error(capsys)
    assert str(disk / "run") in error
    assert "No space left on device" in error
    assert whole_checkpoints(disk / "run") == [2]
    (disk / "ballast").unlink()
    assert_goes_on_to_the_same_end(disk / "run", unbroken)


@needs_root
@pytest.mark.parametrize(("megabytes", "files"), [(0.004, set()), (0.2, {"config.json"})])
def test_a_disk_without_room_is_one_line(small_disk, capsys, megabytes, files):
    disk = small_disk(megabytes)
    assert run(disk / "run") == 2
    assert "No space left on device" in user_error(capsys)
    left = {path.name for path in (disk / "run").iterdir()} if (disk / "run").exists() else set()
    assert files <= left
    assert not [name for name in left if "partial" in name or "weights" in name]
    gc.collect()


@needs_root
# What Orbax's threads were still about to do, Python tells whenever they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failure_while_orbax_writes_is_named_and_the_checkpoint_before_is_kept(
    unbroken, small_disk, monkeypatch, capsys
):
    disk = small_disk(20)

    def fill_up_the_second_time(*_):
        """As where a quota is used up, which the free room does not show."""
        if whole_checkpoints(disk / "run"):
            fill(disk, 8_000)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "require_room", fill_up_the_second_time)
        assert run(disk / "run") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "No space left on device" in last
    assert whole_checkpoints(disk / "run") == [2]
    gc.collect()
    (disk / "ballast").unlink()
    assert_goes_on_to_the_same_end(disk / "run", unbroken)


@needs_root
def test_a_read_only_disk_is_named_at_the_start(unbroken, small_disk, capsys):
    disk = small_disk(100)
    shutil.copytree(unbroken, disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for workdir in (disk / "other", disk / "run"):
        assert run(workdir) == 2
        error = user_error(capsys)
        assert "Read-only file system" in error
        assert str(workdir) in error


@needs_root
@pytest.mark.parametrize("folder", ["checkpoints", pytest.param(".", marks=pytest.mark.slow)])
def test_an_immutable_folder(unbroken, tmp_path, monkeypatch, capsys, folder):
    immutable = tmp_path / "run" / folder
    try:
        with monkeypatch.context() as patch:
            after_call(patch, "train", 4, lambda: subprocess.run(["chattr", "+i", immutable], check=True))
            assert run(tmp_path / "run") == 2
    finally:
        subprocess.run(["chattr", "-i", immutable], check=True)
    assert "Operation not permitted" in user_error(capsys)
    assert_goes_on_to_the_same_end(tmp_path / "run", unbroken)


@pytest.mark.parametrize("lost", ["run", "run/checkpoints"])
def test_a_lost_folder(tmp_path, monkeypatch, capsys, lost):
    after_call(monkeypatch, "train", 1, lambda: shutil.rmtree(tmp_path / lost))
    assert run(tmp_path / "run") == 2
    assert str(tmp_path / lost) in user_error(capsys)
    assert not (tmp_path / lost).exists()
