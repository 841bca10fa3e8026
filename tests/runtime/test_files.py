"""Files and folders that take the place of others."""

import pytest

from dks_jax.runtime.files import atomic_write


def test_a_folder_takes_the_place_of_another_and_of_what_a_killed_process_left(tmp_path):
    for name in ("weights", "weights.partial", "weights.partial.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    with atomic_write(tmp_path / "weights") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["weights", "new"]


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "log").write_text("old")

    def fail_half_way():
        with atomic_write(tmp_path / "log") as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert (tmp_path / "log").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
