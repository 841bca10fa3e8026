"""What the command lines share."""

import benchmark
import convert_pytorch
import prepare_dataset
import pytest
import summarize

from dks_jax import evaluate, predict
from dks_jax.errors import InputError

PROGRAMS = [evaluate, predict, benchmark, convert_pytorch, prepare_dataset, summarize]
ERRORS = {
    "a wrong input": (InputError("No."), 2, "error: No.\n"),
    "a full disk": (OSError(28, "No space left on device", "x"), 2, "error: No space left on device (x): "),
}


def end_with(error, program, monkeypatch):
    def parse(argv):
        raise error

    monkeypatch.setattr(program, "parse", parse)
    return program.main([])


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_ctrl_c_ends_every_command_line_with_one_line(program, monkeypatch, capsys):
    assert end_with(KeyboardInterrupt(), program, monkeypatch) == 130
    resumed = " from the complete downloads" if program is prepare_dataset else ""
    line = capsys.readouterr().err
    assert line.endswith(f": the same command starts again{resumed}\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_an_error_that_the_user_can_mend_is_one_sentence(program, error, monkeypatch, capsys):
    raised, status, sentence = ERRORS[error]
    assert end_with(raised, program, monkeypatch) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(sentence)
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_an_error_of_the_program_itself_keeps_its_traceback(program, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        end_with(ZeroDivisionError(), program, monkeypatch)
