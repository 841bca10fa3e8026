"""Checkpoints: complete or absent, verified, kept in twos; every kind of damage is noticed."""

import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dks_jax.checkpoint import Checkpoints
from dks_jax.errors import InputError
from dks_jax.steps import Devices


def state(step):
    random = np.random.default_rng(step)
    # Larger than what Orbax keeps inside its index, so that it fills files of its own.
    arrays = {name: random.standard_normal((64, 64)).astype(np.float32) for name in ("kernel", "momentum")}
    return Devices().replicate({"step": np.int32(step), **arrays})


def assert_is(restored, step):
    found, progress, _ = restored
    assert progress == {"epoch": step, "means": {"loss": 0.1 * step}}
    for name, value in state(step).items():
        np.testing.assert_array_equal(found[name], value)


def save(folder, *steps):
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(step, state(step), {"epoch": step, "means": {"loss": 0.1 * step}})
    checkpoints.wait()
    checkpoints.close()


def restore(folder):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore_latest(state(0))
    finally:
        checkpoints.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of steps 3 and 7; an older one has gone."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder, 1, 3, 7)
    return folder


def test_the_last_two_are_kept_and_the_last_is_restored(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["3", "7"]
    restored = restore(saved)
    assert_is(restored, 7)
    assert restored[2] == []


def test_without_checkpoints_there_is_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "absent") is None


def test_half_written_checkpoints_are_removed_and_other_files_are_not(tmp_path):
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert restore(tmp_path) is None
    save(tmp_path, 5, 6, 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["6", "7", "notes.txt"]


DAMAGE = {
    "deleted": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "one bit changed": lambda path: path.write_bytes(
        (content := path.read_bytes())[: len(content) // 2]
        + bytes([content[len(content) // 2] ^ 16])
        + content[len(content) // 2 + 1 :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_whichever_file_is_damaged_the_checkpoint_before_is_taken(saved, tmp_path, damage):
    names = sorted(str(path.relative_to(saved)) for path in (saved / "7").rglob("*") if path.is_file())
    # What Orbax writes besides differs by version; arrays, index and seal are always there.
    assert len(names) > 8
    for i, name in enumerate(names):
        folder = tmp_path / str(i)
        shutil.copytree(saved, folder)
        DAMAGE[damage](folder / name)
        restored = restore(folder)
        if name in ("7/_CHECKPOINT_METADATA", "7/commit_success.txt"):
            # Orbax writes them last, and reads a checkpoint without them.
            assert_is(restored, 7)
            continue
        assert_is(restored, 3)
        (complaint,) = restored[2]
        assert complaint.startswith("the checkpoint of step 7 is damaged: ")
        assert complaint.endswith("; going on from step 3")
        shutil.rmtree(folder)


@pytest.mark.parametrize("step", [5, 7])
def test_a_damaged_checkpoint_goes_once_a_new_one_is_there_of_its_step_or_another(saved, tmp_path, step):
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "copy" / "7" / "complete.json").unlink()
    checkpoints = Checkpoints(tmp_path / "copy")
    checkpoints.restore_latest(state(0))
    assert checkpoints.latest == 3
    assert (tmp_path / "copy" / "7").exists()
    checkpoints.save(step, state(step), {"epoch": step, "means": {"loss": 0.1 * step}})
    checkpoints.wait()
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["3", str(step)]
    assert_is(restore(tmp_path / "copy"), step)


def test_where_every_checkpoint_is_damaged_nothing_is_started_over(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    for step in ("3", "7"):
        (tmp_path / "copy" / step / "complete.json").write_text("{")
    with pytest.raises(
        InputError, match=r"No checkpoint in .* is whole \(.*step 7.*; .*step 3 .*delete the folder"
    ):
        restore(tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["3", "7"]


def test_a_state_of_another_shape_is_of_another_version(saved):
    checkpoints = Checkpoints(saved)
    with pytest.raises(InputError, match="does not fit this version of dks-jax"):
        checkpoints.restore_latest({"step": jnp.int32(0), "other": jnp.zeros(3)})
    checkpoints.close()
    assert sorted(path.name for path in saved.iterdir()) == ["3", "7"]


def test_saving_does_not_wait_for_the_disk_and_the_state_may_change_at_once(tmp_path):
    # What training does: the buffers of the state saved are given to the next step.
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    current, checkpoints = state(7), Checkpoints(tmp_path)
    checkpoints.save(7, current, {"epoch": 7, "means": {"loss": 0.1 * 7}})
    for _ in range(50):
        current = step(current)
    checkpoints.wait()
    checkpoints.close()
    assert_is(restore(tmp_path), 7)


def test_progress_is_exact(tmp_path):
    # Sums of an epoch are float64: JSON must give back every bit.
    sums = {str(i): value for i, value in enumerate(np.random.default_rng(0).standard_normal(100).tolist())}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1), sums)
    checkpoints.wait()
    checkpoints.close()
    assert restore(tmp_path)[1] == sums
    assert json.loads((tmp_path / "1" / "complete.json").read_text())["progress"] == sums


def test_of_a_step_that_is_saved_already_only_the_progress_is_written_anew(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    checkpoints = Checkpoints(tmp_path / "copy")
    checkpoints.restore_latest(state(0))
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "copy" / "7").rglob("*") if path.is_file()}
    checkpoints.save(7, state(7), {"epoch": 8})
    checkpoints.wait()
    checkpoints.close()
    changed = [path.name for path, time in files.items() if path.stat().st_mtime_ns != time]
    assert changed == ["complete.json"]
    assert restore(tmp_path / "copy")[1:] == ({"epoch": 8}, [])


def test_an_error_of_the_system_is_not_taken_for_damage(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "copy")

    def failing(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("dks_jax.files._crc", failing)
    with pytest.raises(OSError, match="Input/output error"):
        restore(tmp_path / "copy")
    monkeypatch.undo()
    assert_is(restore(tmp_path / "copy"), 7)


@pytest.mark.parametrize(
    "appended",
    ["[os_error_code='28']", "[tensorstore_spec='{\\\"limit\\\":[128]}'] [os_error_code='28'] [path='/x']"],
)
def test_the_reason_of_a_failed_write_is_the_systems_whatever_tensorstore_appends(
    tmp_path, monkeypatch, appended
):
    def failing(_):
        raise ValueError(f'RESOURCE_EXHAUSTED: Error writing "a/0.0": Failed to write: Full {appended}')

    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.AsyncCheckpointer, "check_for_errors", failing)
        with pytest.raises(InputError, match=r"\(No space left on device; there is none before\)"):
            checkpoints.check()
    checkpoints.close()
