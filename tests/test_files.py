"""Files and folders that take the place of others."""

import pytest

from dks_jax.files import replacing


def test_a_folder_takes_the_place_of_another(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "old").touch()
    with replacing(tmp_path / "weights") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "log").write_text("old")

    def fail_half_way():
        with replacing(tmp_path / "log") as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert (tmp_path / "log").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_what_a_killed_process_left_is_no_hindrance(tmp_path):
    (tmp_path / "weights.partial").mkdir()
    (tmp_path / "weights.partial.old").mkdir()
    with replacing(tmp_path / "weights") as partial:
        partial.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
