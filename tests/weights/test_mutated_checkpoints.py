"""Checkpoint files damaged in hundreds of ways: each is refused in one line, or rightly taken over.

Nothing that a file refers to is ever run, and no folder is left half-written.
"""

import io
import resource
import shutil
import time
from collections import Counter
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path

import convert_pytorch
import numpy as np
import pytest
import torch

from dks_jax.reporting.tables import markdown_table
from dks_jax.runtime.errors import InputError
from dks_jax.weights import load_network, load_weights
from support import mutant_files, mutants
from support import torch_reference as reference
from support.mutants import ACCEPTED, EITHER, REFUSED, SENTINEL, plain_values, saved

KINDS = [
    *(mutant_files.truncated, mutant_files.random_bytes_changed, mutant_files.no_checkpoints),
    *(mutants.names_wrong, mutants.names_right, mutants.misshapen, mutants.types_right, mutants.types_wrong),
    *(mutants.values_wrong, mutants.epochs, mutants.optimizers_wrong, mutants.optimizers_right),
    *(mutants.other_architectures, mutants.counters_wrong),
    *(mutant_files.malicious, mutant_files.safetensors_files),
]


def assert_one_readable_line(message):
    assert message.startswith("error: ")
    assert message.endswith(".\n")
    assert message[:-1].isprintable(), message
    assert len(message) < 1500, message


def meets_expectation(mutant, capfd, told=None):
    """Puts a mutant through the converter in the current folder; returns whether it was accepted."""
    file, out = Path(f"mutant{mutant.suffix}"), Path("out")
    file.unlink(missing_ok=True)
    out.mkdir(exist_ok=True)
    if mutant.data is None:
        file = out.parent.resolve()
    else:
        file.write_bytes(mutant.data)
    capfd.readouterr()
    start = time.monotonic()
    status = convert_pytorch.main(["import", f"--torch={file}", f"--weights={out / 'weights'}"])
    error = capfd.readouterr().err
    assert time.monotonic() - start < 20
    assert not Path(SENTINEL).exists()
    if status:
        assert status == 2
        assert mutant.expected != ACCEPTED, error
        assert_one_readable_line(error)
        assert list(out.iterdir()) == []
        if told is not None:
            told.append(error.replace(str(file), "FILE").strip())
        return False
    assert mutant.expected != REFUSED
    assert error == ""
    values = mutant.values
    if values is None:
        content = torch.load(file, weights_only=True)
        values = plain_values(content.get("params", content))
    weights = load_weights(out / "weights")
    ours = reference.to_released(
        {n: np.asarray(a) for n, a in (weights.params | weights.batch_stats).items()}
    )
    assert set(ours) == set(values)
    for name, value in values.items():
        np.testing.assert_array_equal(ours[name], value)
    shutil.rmtree(out / "weights")
    return True


def draw(kind, number):
    return islice(kind(np.random.default_rng(KINDS.index(kind))), number)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder of a test: where a mutant's code would leave its sentinel."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_few_mutants_of_every_kind(kind, folder, capfd):
    for mutant in draw(kind, 40 if kind is mutant_files.malicious else 5):
        with telling(mutant):
            meets_expectation(mutant, capfd)


@pytest.mark.slow
def test_five_hundred_mutants(folder, capfd):
    table, told = [], []
    with address_space(24 << 30):
        for kind in KINDS:
            outcomes = Counter()
            for mutant in draw(kind, 45):
                with telling(mutant):
                    outcomes[meets_expectation(mutant, capfd, told)] += 1
            table.append(
                [kind.__name__, *(str(n) for n in (outcomes.total(), outcomes[False], outcomes[True]))]
            )
    assert sum(int(row[1]) for row in table) >= 500
    with capfd.disabled():
        print(
            "",
            *sorted(set(told)),
            markdown_table([["kind", "mutants", "refused", "accepted"], *table]),
            sep="\n",
        )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_loading_straight_from_a_mutant_is_refused_alike(kind, folder):
    mutant = next(m for m in draw(kind, 40) if m.data is not None)
    file = folder / f"mutant{mutant.suffix}"
    file.write_bytes(mutant.data)
    if mutant.expected == REFUSED:
        with pytest.raises(InputError, match="mutant"):
            load_network(file)
    else:
        with suppress(InputError) if mutant.expected == EITHER else nullcontext():
            load_network(file)
    assert not Path(SENTINEL).exists()


def test_the_malicious_payloads_do_run_where_pytorch_trusts_them(folder):
    for payload in mutant_files.payloads():
        torch.load(io.BytesIO(saved(payload)), weights_only=False)
        assert Path(SENTINEL).exists()
        Path(SENTINEL).rmdir()


@contextmanager
def telling(mutant):
    """Says which mutant it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"the mutant: {mutant.what}, {mutant.expected}")
        raise


@contextmanager
def address_space(limit):
    """So that a mutant that asks for all memory fails here and not the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
