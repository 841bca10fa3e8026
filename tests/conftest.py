"""Fixtures of several test modules."""

import os
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compiled programs are shared between the tests of a run, those in other processes included."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.fixture
def x64() -> Iterator[None]:
    """64-bit types for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def image_folder(tmp_path):
    """Two classes of two training images and one held-out image."""
    random = np.random.default_rng(0)
    for name in ("train/a/1", "train/a/2", "train/b/1", "train/b/2", "test/a/1", "test/b/1"):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (10, 12, 3), np.uint8)).save(path)
    return tmp_path / "images"
