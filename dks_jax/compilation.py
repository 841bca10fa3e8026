"""How programs are compiled, and where they are kept, so that a second start does not compile them again."""

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, cast

import jax

# Has XLA take deterministic operations alone on a GPU, and the first candidate where times would choose;
# implies xla_gpu_exclude_nondeterministic_ops. On a CPU, where runs repeat themselves, it changes nothing.
DETERMINISTIC = {"xla_gpu_deterministic_ops": True}

# On a CPU XLA removes the barriers of jax.checkpoint before it looks for what is computed twice, which would
# undo it.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}

# What takes less long to compile is not kept: the steps are, the many small programs around them are not.
MIN_SECONDS = 0.2
# A disk with less room is as good as full.
MIN_FREE_BYTES = 100_000_000


def keep_programs() -> None:
    """Has JAX keep its compiled programs, and what GPUs have found by autotuning, in `cache_folder`.

    Any number of processes may share it. Where it cannot be written, or the user has said by
    JAX_COMPILATION_CACHE_DIR or JAX_ENABLE_COMPILATION_CACHE what to do instead, nothing is changed.
    """
    # Its settings are made at run time, and no type checker knows them.
    settings = cast(Any, jax.config)
    if settings.jax_compilation_cache_dir is not None or not settings.jax_enable_compilation_cache:
        return
    folder = cache_folder()
    if folder is None or not _has_room(folder):
        return
    # By default (jax_persistent_cache_enable_xla_caches) results of autotuning are kept beside the programs.
    settings.update("jax_compilation_cache_dir", str(folder))
    settings.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    # A disk that fills up, or a program cut short, costs the time to compile, and nothing else.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")


def cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/dks_jax/xla, by default ~/.cache/dks_jax/xla; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dks_jax", "xla")
    except RuntimeError:
        return None


def _has_room(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions do not tell: the disk may be read-only.
        tempfile.TemporaryFile(dir=folder).close()
        return shutil.disk_usage(folder).free >= MIN_FREE_BYTES
    except OSError:
        return False
