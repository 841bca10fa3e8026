"""How programs are compiled; kept between two starts, or compiled again where the folder cannot keep them."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dks_jax.models import load_config
from dks_jax.runtime import compilation
from dks_jax.training import experiment
from support.runs import CONFIGS, ROOT
from support.tiny_network import save_tiny

PROGRAM = ROOT / "tests" / "support" / "tiny_predict.py"
SETTINGS = {"jax_compilation_cache_dir": None, "jax_persistent_cache_min_compile_time_secs": 1.0}


def predict(folder, limit=0):
    """(table, number of programs that were compiled before) of a process that says nothing of it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    command = [sys.executable, PROGRAM, str(limit), f"--weights={folder / 'weights'}", folder / "image.png"]
    result = subprocess.run(
        command,
        env=environment | {"XDG_CACHE_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = result.stderr.splitlines()
    assert line.startswith("preprocessing: ")
    *table, hits = result.stdout.splitlines()
    return table, int(hits)


def programs(folder):
    kept = folder.glob("dks_jax/xla/jit__apply_batch-*-cache")
    return {path.name: path.stat().st_size for path in kept}


@pytest.mark.slow
def test_a_second_start_compiles_nothing_unless_a_full_disk_has_cut_the_program_short(tmp_path):
    save_tiny(tmp_path / "weights", channels=3)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "image.png")
    table, hits = predict(tmp_path, limit=2000)
    assert hits == 0
    assert set(programs(tmp_path).values()) == {2000}
    assert predict(tmp_path)[0] == table
    for path in (tmp_path / "dks_jax" / "xla").iterdir():
        path.unlink()
    predict(tmp_path)
    kept = programs(tmp_path)
    assert len(kept) == 1
    again, hits = predict(tmp_path)
    assert hits > 0
    assert again == table
    assert programs(tmp_path) == kept


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """JAX's settings as they are without a user's; a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name, value in SETTINGS.items():
        jax.config.update(name, value)
    yield tmp_path / "dks_jax" / "xla"
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_cache_folder_of_the_user(fresh, monkeypatch):
    compilation.enable_cache()
    assert jax.config.jax_compilation_cache_dir == str(fresh)
    assert "xla_gpu_per_fusion_autotune_cache_dir" in jax.config.jax_persistent_cache_enable_xla_caches
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert compilation.cache_folder() == Path("/home/somebody/.cache/dks_jax/xla")


def test_what_the_user_has_set_counts_more(fresh):
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    compilation.enable_cache()
    assert jax.config.jax_compilation_cache_dir == "/elsewhere"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        compilation.enable_cache()
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not fresh.exists()


def no_home(monkeypatch, _):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)


HINDRANCES = {
    "a disk that is nearly full": lambda patch, _: patch.setattr(compilation, "MIN_FREE_BYTES", 2**80),
    "a user without a home": no_home,
    "a file in the way": lambda _, folder: folder.parent.write_text("A file."),
}


@pytest.mark.parametrize("hindrance", HINDRANCES)
def test_where_nothing_can_be_kept_nothing_is(hindrance, fresh, monkeypatch):
    HINDRANCES[hindrance](monkeypatch, fresh)
    compilation.enable_cache()
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize("field", ["deterministic", "remat"])
@pytest.mark.parametrize("value", [False, True])
def test_a_config_asks_for_deterministic_operations_and_for_remat(field, value, monkeypatch):
    given = []
    monkeypatch.setattr(experiment, "Steps", lambda *_, devices, remat, **__: given.append((devices, remat)))
    config = load_config(str(CONFIGS / "digits_wrn.py"), {field: str(value)})
    experiment.prepare(config, resumed=False)
    ((devices, remat),) = given
    deterministic = "xla_gpu_deterministic_ops" in devices.compiler_options
    assert {"deterministic": deterministic, "remat": remat}[field] == value
