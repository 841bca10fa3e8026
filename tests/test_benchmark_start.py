"""The measurement of the start: every part is there, and the parts are those of a training."""

import sys

import benchmark
import pytest
from benchmarks import start

from dks_jax.errors import InputError

# The digits without branches.
CONFIG = f"""
import sys
sys.path.insert(0, {str(start.CONFIG.parent)!r})
import digits_wrn

def get_config():
    config = digits_wrn.get_config("baseline")
    config.data.batch_size = 8
    return config
"""
PARTS = ["imports", "config", "data", "network", "state", "tracing", "compiling", "step"]


def test_a_second_start_finds_the_compiled_programs_of_the_first(tmp_path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    cold = start.first_step(str(config), tmp_path, "cold")
    programs = set((tmp_path / "programs").iterdir())
    warm = start.first_step(str(config), tmp_path, "warm")
    assert list(cold) == list(warm) == PARTS
    assert min([*cold.values(), *warm.values()]) >= 0
    assert any(path.name.startswith("jit__train_chunk") for path in programs)
    assert warm["compiling"] < cold["compiling"]


def test_the_tables_show_ratio_parts_and_sum():
    shown = start.show(
        {
            "options": {"config": "configs/digits_wrn.py", "rounds": 2},
            "imports": {"dks_jax": [3.0, 4.0], "jax, flax.nnx, optax": [2.0, 2.0]},
            "first_step": {
                "cold": {"a": [1.0, 2.0], "b": [3.0, 4.0]},
                "warm": {"a": [1.0, 1.0], "b": [0.5, 0.5]},
            },
        }
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if "|" in line]
    assert rows[2] == ["", "3.50 (3.00-4.00)", "2.00 (2.00-2.00)", "1.75"]
    assert rows[-1] == ["sum", "5.00 (4.00-6.00)", "1.50 (1.50-1.50)"]


def test_a_process_that_fails_is_reported_with_its_last_line():
    with pytest.raises(InputError, match=r"^A process that is measured has failed: ValueError: no$"):
        start.run(["-c", "raise ValueError('no')"], {})
    assert start.run(["-c", "import sys; print(sys.executable)"], {}) == f"{sys.executable}\n"


def test_wrong_arguments_end_with_one_sentence(capsys):
    assert benchmark.main(["start", "--rounds=0"]) == 2
    assert capsys.readouterr().err == "error: `--rounds` must be 1 or more; got 0.\n"
