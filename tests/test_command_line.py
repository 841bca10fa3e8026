"""What the command lines share."""

import os
import subprocess
import sys

import benchmark
import convert_pytorch
import prepare_dataset
import pytest
import summarize
import sweep

from dks_jax import evaluate, predict
from dks_jax.runtime.errors import InputError
from support.runs import DIGITS, ROOT, SMALL, records, user_error
from support.tiny_network import save_tiny

PROGRAMS = [evaluate, predict, benchmark, convert_pytorch, prepare_dataset, summarize, sweep]


def end_with(error, program, monkeypatch):
    def parse(argv):
        raise error

    monkeypatch.setattr(program, "parse", parse)
    return program.main([])


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_every_command_line_ends_alike(program, monkeypatch, capsys):
    """One line after Ctrl-C and an error that a user can mend; a traceback where the program is wrong."""
    assert end_with(KeyboardInterrupt(), program, monkeypatch) == 130
    line = capsys.readouterr().err
    assert "the same command starts again" in line
    assert line.count("\n") == 1
    assert end_with(InputError("No."), program, monkeypatch) == 2
    assert user_error(capsys, alone=True) == "error: No.\n"
    assert end_with(OSError(28, "No space left on device", "x"), program, monkeypatch) == 2
    assert user_error(capsys, alone=True).startswith("error: No space left on device (x)")
    with pytest.raises(ZeroDivisionError):
        end_with(ZeroDivisionError(), program, monkeypatch)


def read_nothing(*arguments):
    """Exit status and standard error of a program of Python whose standard output is closed at once."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [sys.executable, *map(str, arguments)],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    return result.returncode, result.stderr


def test_a_closed_pipe_is_no_error_of_a_program(tmp_path, image_folder):
    """They end as if SIGPIPE had ended them, in silence; only training goes on."""
    save_tiny(tmp_path / "weights", class_names=["a", "b"], num_classes=2)
    tiny = ROOT / "tests" / "support" / "tiny_predict.py"
    assert read_nothing("-m", "dks_jax.train", "--help") == (141, "")
    assert read_nothing("-m", "dks_jax.evaluate", "--help") == (141, "")
    assert read_nothing(ROOT / "tools" / "describe_fields.py") == (141, "")
    status, error = read_nothing(tiny, 0, f"--weights={tmp_path / 'weights'}", image_folder / "test")
    assert status == 141
    # Where the description of the preprocessing goes.
    assert "Traceback" not in error
    assert "Exception" not in error


@pytest.mark.slow
def test_training_goes_on_after_a_closed_pipe(tmp_path, tiny_model):
    tiny = ROOT / "tests" / "support" / "tiny_train.py"
    assert read_nothing(tiny, DIGITS, *SMALL, f"--workdir={tmp_path / 'run'}") == (0, "")
    assert len(records(tmp_path / "run")) == 6
    assert read_nothing(tiny, DIGITS, *SMALL, "--config.epochs=0") == (
        2,
        "error: `epochs` must be at least 1 and at most 1000000000; got 0.\n",
    )
