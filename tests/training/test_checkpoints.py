"""Checkpoints: complete or absent, verified, kept in twos; every kind of damage is noticed."""

import errno
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dks_jax.runtime.devices import Devices
from dks_jax.runtime.errors import InputError
from dks_jax.training.checkpoints import Checkpoints


def state(step):
    random = np.random.default_rng(step)
    # Larger than what Orbax keeps inside its index, so that it fills files of its own.
    arrays = {name: random.standard_normal((64, 64)).astype(np.float32) for name in ("kernel", "momentum")}
    return Devices().replicate({"step": np.int32(step), **arrays})


def progress(step):
    """Sums of an epoch, float64: every bit of them must come back."""
    sums = np.random.default_rng(step).standard_normal(100).tolist()
    return {"epoch": step, "means": {str(i): value for i, value in enumerate(sums)}}


def assert_is(restored, step):
    found, its_progress, _ = restored
    assert its_progress == progress(step)
    for name, value in state(step).items():
        np.testing.assert_array_equal(found[name], value)


def save(folder, *steps, **arguments):
    checkpoints = Checkpoints(folder, **arguments)
    for step in steps:
        checkpoints.save(step, state(step), progress(step))
    checkpoints.wait()
    checkpoints.close()


def restore(folder, like=None):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore_latest(like or state(0))
    finally:
        checkpoints.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of steps 3 and 7; an older one has gone."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder, 1, 3, 7)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_the_last_two_are_kept_and_the_last_is_restored(saved):
    assert names(saved) == ["3", "7"]
    restored = restore(saved)
    assert_is(restored, 7)
    assert restored[2] == []


@pytest.mark.parametrize("number", [1, 2, 4])
def test_as_many_are_kept_as_asked_for(tmp_path, number):
    save(tmp_path, 1, 2, 3, 4, 5, keep=number)
    assert names(tmp_path) == ["1", "2", "3", "4", "5"][-number:]
    assert_is(restore(tmp_path), 5)


def test_a_damaged_checkpoint_does_not_count_among_those_that_are_kept(copy):
    (copy / "7" / "complete.json").unlink()
    checkpoints = Checkpoints(copy, keep=1)
    checkpoints.restore_latest(state(0))
    # As at the start of every save.
    checkpoints.wait()
    assert (copy / "3").exists()
    checkpoints.save(9, state(9), progress(9))
    checkpoints.wait()
    checkpoints.close()
    assert names(copy) == ["9"]


def test_half_written_checkpoints_are_removed_and_other_files_are_not(tmp_path):
    assert restore(tmp_path / "absent") is None
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert restore(tmp_path) is None
    save(tmp_path, 5, 6, 7)
    assert names(tmp_path) == ["6", "7", "absent", "notes.txt"]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


DAMAGE = {
    "deleted": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one bit changed": flip_a_bit,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_whichever_file_is_damaged_the_checkpoint_before_is_taken(saved, tmp_path, damage):
    files = sorted(str(path.relative_to(saved)) for path in (saved / "7").rglob("*") if path.is_file())
    # What Orbax writes besides differs by version; arrays, index and seal are always there.
    assert len(files) > 8
    for i, name in enumerate(files):
        folder = shutil.copytree(saved, tmp_path / str(i))
        DAMAGE[damage](folder / name)
        restored = restore(folder)
        if name in ("7/_CHECKPOINT_METADATA", "7/commit_success.txt"):
            # Orbax writes them last, and reads a checkpoint without them.
            assert_is(restored, 7)
            continue
        assert_is(restored, 3)
        (complaint,) = restored[2]
        assert "step 7" in complaint
        assert "step 3" in complaint


@pytest.mark.parametrize("step", [5, 7])
def test_a_damaged_checkpoint_goes_once_a_new_one_is_there_of_its_step_or_another(copy, step):
    (copy / "7" / "complete.json").unlink()
    checkpoints = Checkpoints(copy)
    checkpoints.restore_latest(state(0))
    assert checkpoints.latest == 3
    assert (copy / "7").exists()
    checkpoints.save(step, state(step), progress(step))
    checkpoints.wait()
    checkpoints.close()
    assert names(copy) == ["3", str(step)]
    assert_is(restore(copy), step)


@pytest.mark.parametrize(
    ("other", "reason"), [({"other": jnp.zeros(3)}, ""), ({"kernel": jnp.zeros((64, 3))}, "64, 3")]
)
def test_a_state_of_another_shape_is_of_another_version(saved, other, reason):
    with pytest.raises(InputError, match=f"{reason}.*version that config.json names"):
        restore(saved, state(0) | other)
    assert names(saved) == ["3", "7"]


def test_saving_does_not_wait_for_the_disk_and_the_state_may_change_at_once(tmp_path):
    # What training does: the buffers of the state saved are given to the next step.
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    current, checkpoints = state(7), Checkpoints(tmp_path)
    checkpoints.save(7, current, progress(7))
    for _ in range(50):
        current = step(current)
    checkpoints.wait()
    checkpoints.close()
    assert_is(restore(tmp_path), 7)


def test_of_a_step_that_is_saved_already_only_the_progress_is_written_again(copy):
    checkpoints = Checkpoints(copy)
    checkpoints.restore_latest(state(0))
    files = {path: path.stat().st_mtime_ns for path in (copy / "7").rglob("*") if path.is_file()}
    checkpoints.save(7, state(7), {"epoch": 8})
    checkpoints.wait()
    checkpoints.close()
    changed = [path.name for path, time in files.items() if path.stat().st_mtime_ns != time]
    assert changed == ["complete.json"]
    assert restore(copy)[1:] == ({"epoch": 8}, [])


def test_an_error_of_the_system_is_not_taken_for_damage(copy, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(zlib, "crc32", failing)
        with pytest.raises(OSError, match="Input/output error"):
            restore(copy)
    assert_is(restore(copy), 7)


def test_the_reason_of_a_failed_write_is_the_systems_whatever_tensorstore_appends(tmp_path, monkeypatch):
    appended = "[tensorstore_spec='{\\\"limit\\\":[128]}'] [os_error_code='28'] [path='/x']"

    def failing(_):
        raise ValueError(f'RESOURCE_EXHAUSTED: Error writing "a/0.0": Failed to write: Full {appended}')

    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.AsyncCheckpointer, "check_for_errors", failing)
        with pytest.raises(InputError, match="No space left on device"):
            checkpoints.check()
    checkpoints.close()
