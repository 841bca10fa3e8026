"""How programs are compiled; kept between two starts, where a folder that cannot keep them is no matter."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dks_jax import compilation, configuration, experiment
from runs import CONFIGS
from tiny_network import save_tiny

# Prints how many programs came from the cache. argv: size limit of files, 0 for none; flags of predict.
PREDICT = """
import resource, sys
import jax
from dks_jax import compilation, models, predict
from tiny_network import build_tiny
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
compilation.MIN_SECONDS = 0
models.MODELS["wide_resnet"] = models.MODELS["wide_resnet"]._replace(build=build_tiny)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
status = predict.main(sys.argv[2:])
print(events.count("/jax/compilation_cache/cache_hits"))
sys.exit(status)
"""
SETTINGS = {"jax_compilation_cache_dir": None, "jax_persistent_cache_min_compile_time_secs": 1.0}


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """Flags of predict: weights and an image."""
    folder = tmp_path_factory.mktemp("classified")
    save_tiny(folder / "weights", channels=3)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "image.png")
    return f"--weights={folder / 'weights'}", folder / "image.png"


def predict(cache_home, arguments, limit=0):
    """(table, number of programs that were compiled before) of a process that says nothing else."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    paths = os.pathsep.join([str(Path(__file__).parent), environment.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", PREDICT, str(limit), *map(str, arguments)],
        env=environment | {"XDG_CACHE_HOME": str(cache_home), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = result.stderr.splitlines()
    assert line.startswith("preprocessing: ")
    *table, hits = result.stdout.splitlines()
    return table, int(hits)


def programs(cache_home):
    kept = cache_home.glob("dks_jax/xla/jit__apply_batch-*-cache")
    return {path.name: path.stat().st_size for path in kept}


def test_a_second_start_compiles_nothing_and_gives_the_same(classified, tmp_path):
    table, hits = predict(tmp_path, classified)
    assert hits == 0
    kept = programs(tmp_path)
    assert len(kept) == 1
    again, hits = predict(tmp_path, classified)
    assert hits > 0
    assert again == table
    assert programs(tmp_path) == kept


def test_a_disk_without_room_for_a_program_is_no_matter(classified, tmp_path):
    table, _ = predict(tmp_path, classified, limit=2000)
    assert set(programs(tmp_path).values()) == {2000}
    # Cut short as it is now, the program is compiled again.
    assert predict(tmp_path, classified)[0] == table


def test_a_folder_that_cannot_be_written_is_no_matter(classified, tmp_path):
    (tmp_path / "dks_jax").write_text("A file is in the way.")
    assert predict(tmp_path, classified)[1] == 0


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
    compilation.keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(fresh)
    assert "xla_gpu_per_fusion_autotune_cache_dir" in jax.config.jax_persistent_cache_enable_xla_caches
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert compilation.cache_folder() == Path("/home/somebody/.cache/dks_jax/xla")


def test_a_folder_of_the_user_s_own_counts_more(fresh):
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    compilation.keep_programs()
    assert jax.config.jax_compilation_cache_dir == "/elsewhere"
    assert not fresh.exists()


def test_a_cache_that_the_user_has_switched_off_stays_off(fresh):
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        compilation.keep_programs()
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not fresh.exists()


def test_a_disk_that_is_nearly_full_is_left_alone(fresh, monkeypatch):
    monkeypatch.setattr(compilation, "MIN_FREE_BYTES", 2**80)
    compilation.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_user_without_a_home_has_no_cache(fresh, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    compilation.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_config_asks_for_deterministic_operations(deterministic, monkeypatch):
    given = []
    monkeypatch.setattr(experiment, "Steps", lambda *_, devices, **__: given.append(devices))
    config = configuration.load(str(CONFIGS / "digits_wrn.py"), {"deterministic": str(deterministic)})
    experiment.prepare(config, resumed=False)
    (devices,) = given
    assert ("xla_gpu_deterministic_ops" in devices.compiler_options) == deterministic
