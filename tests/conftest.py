"""Fixtures of several test modules."""

import os
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from dks_jax import models
from dks_jax.runtime.compilation import CPU_OPTIONS
from support import tiny_network
from support.runs import run
from support.small_disk import small_disk

__all__ = ["small_disk"]

# Each process of pytest-xdist has its own cores, since the threads of JAX and of torch wait for each other by
# spinning: on two cores two processes with two threads each take several times as long.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores, count = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    if own := cores[int(worker.removeprefix("gw")) :: count]:
        os.sched_setaffinity(0, own)

# An option of XLA for CPUs that the XLA of newer versions of JAX lacks.
FUSIONS = "xla_cpu_use_fusion_emitters"
WITHOUT_FUSIONS = f" --{FUSIONS}=false"

# A machine may be busy: how long an example takes is no property of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compiled programs are shared between the tests of a run, those in other processes included."""
    root = tmp_path_factory.getbasetemp()
    # The processes of pytest-xdist have folders of their own in that of the run.
    folder = str((root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "compiled")
    # Quick compilations too: hardly any test waits for anything else.
    settings = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0}
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.fixture(scope="session", autouse=True)
def support_in_processes():
    """The processes that tests start can import `support` too."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


@pytest.fixture(scope="module")
def default_signals() -> Iterator[None]:
    """Signals mean what they do at a terminal; a shell in the background ignores SIGINT, and nohup SIGHUP."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@cache
def _is_option(name: str) -> bool:
    """Whether XLA knows an option; it reads the flags in the environment now, if it has not yet."""
    try:
        jax.jit(lambda x: x).lower(0.0).compile({name: False})
    except jax.errors.JaxRuntimeError:
        return False
    return True


@pytest.fixture(scope="module")
def quick_compilation():
    """Has XLA compile without optimising, which takes a fraction of the time, here and in processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        # The code of fusions takes as long to compile as all the rest.
        if _is_option(FUSIONS):
            patch.setitem(CPU_OPTIONS, FUSIONS, False)
            patch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + WITHOUT_FUSIONS)
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def usual_fusions(quick_compilation):
    """With XLA's usual code for fusions, here and in processes: it rounds alike in programs that differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(CPU_OPTIONS, FUSIONS, raising=False)
        patch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "").replace(WITHOUT_FUSIONS, ""))
        yield


@pytest.fixture(scope="module")
def tiny_model(quick_compilation):
    """Has configs of wide ResNets build a network that is quick to trace and to compile instead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.NETWORKS, "wide_resnet", tiny_network.FAMILY)
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_model):
    """The workdir of a whole run: three epochs of two steps."""
    workdir = tmp_path_factory.mktemp("runs") / "unbroken"
    assert run(workdir) == 0
    return workdir


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
