"""Disks of a few megabytes, which only root can mount."""

import os
import subprocess

import pytest


def changes_mounts() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0


needs_root = pytest.mark.skipif(not changes_mounts(), reason="only root can mount and make folders immutable")


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
