"""Signals while a program starts: Ctrl-C is one line, and an import alone changes nothing."""

import subprocess
import sys

import pytest

from support.runs import ROOT

pytestmark = pytest.mark.usefixtures("default_signals")

COMMANDS = ["train", "evaluate", "predict"]
INTERRUPTED_IMPORT = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
"""


@pytest.mark.parametrize("package", ["jax", "flax", "orbax"])
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_while_packages_are_imported_is_one_line(command, package, tmp_path):
    # What stands in the current folder is imported first.
    (tmp_path / f"{package}.py").write_text(INTERRUPTED_IMPORT)
    program = [sys.executable, "-m", f"dks_jax.{command}", "--help"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    result = subprocess.run(
        program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 130, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "the same command starts again" in result.stderr


def test_importing_the_library_and_its_commands_leaves_the_signals_alone():
    code = (
        "import signal; before = [signal.getsignal(n) for n in signal.valid_signals()]; "
        "import dks_jax; from dks_jax import objective, train, evaluate, predict; "
        "assert [signal.getsignal(n) for n in signal.valid_signals()] == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
