"""Options for XLA's compiler, and the cache of compiled programs."""

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, cast

import jax

# With XLA's YNNPACK kernels a training step takes 1.6 times as long as with its Eigen kernels.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}

# On a GPU, XLA uses only deterministic operations and takes the first candidate instead of timing them all;
# this implies xla_gpu_exclude_nondeterministic_ops. On a CPU results are reproducible without the option.
DETERMINISTIC = {"xla_gpu_deterministic_ops": True}

# On a CPU, XLA removes the barriers of jax.checkpoint before it eliminates common subexpressions, which would
# undo the rematerialisation.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}

# Programs that compile faster are not cached, so that the cache holds the steps and not the many small
# programs around them.
MIN_SECONDS = 0.2
# On a disk with less free space the cache is not used.
MIN_FREE_BYTES = 100_000_000


def enable_cache() -> None:
    """Enables JAX's cache of compiled programs and of the autotuning results of GPUs, in `cache_folder`.

    Any number of processes may share the cache. Nothing changes if the folder cannot be written, or if
    JAX_COMPILATION_CACHE_DIR or JAX_ENABLE_COMPILATION_CACHE say what to do instead.
    """
    # The settings are created at run time, so a type checker does not know them.
    settings = cast(Any, jax.config)
    if settings.jax_compilation_cache_dir is not None or not settings.jax_enable_compilation_cache:
        return
    folder = cache_folder()
    if folder is None or not _has_room(folder):
        return
    # By default (jax_persistent_cache_enable_xla_caches) autotuning results are stored beside the programs.
    settings.update("jax_compilation_cache_dir", str(folder))
    settings.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    # A full disk or a truncated entry costs only the time to compile the program.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")


def cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/dks_jax/xla, which defaults to ~/.cache/dks_jax/xla; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dks_jax", "xla")
    except RuntimeError:
        return None


def _has_room(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions do not suffice, since the disk may be read-only.
        tempfile.TemporaryFile(dir=folder).close()
        return shutil.disk_usage(folder).free >= MIN_FREE_BYTES
    except OSError:
        return False
