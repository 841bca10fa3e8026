"""Fixtures of several test modules."""

import os
from collections.abc import Iterator

import jax
import pytest


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
