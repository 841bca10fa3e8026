"""Files and folders that take the place of others."""

from pathlib import Path

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


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failure_to_take_the_place_leaves_what_was_there(kind, tmp_path, monkeypatch):
    old = tmp_path / "weights"
    if kind == "folder":
        old.mkdir()
    else:
        old.touch()
    whole = Path.replace

    def replace(path, target):
        if path.name == "weights.partial":
            raise PermissionError
        return whole(path, target)

    def write():
        with atomic_write(old) as partial:
            partial.touch()

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(PermissionError):
        write()
    assert list(tmp_path.iterdir()) == [old]
    assert old.is_dir() == (kind == "folder")
