"""What the command lines share."""

import benchmark
import convert_pytorch
import prepare_dataset
import pytest
import summarize

from dks_jax import evaluate, predict
from dks_jax.runtime.errors import InputError
from support.runs import user_error

PROGRAMS = [evaluate, predict, benchmark, convert_pytorch, prepare_dataset, summarize]


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
