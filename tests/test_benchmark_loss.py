"""The measurement of the loss: all sides compute the same; how fast they are is no claim."""

import json

import benchmark
import numpy as np
import pytest
from benchmarks import loss

from dks_jax.errors import InputError


def test_the_loss_is_measured_beside_two_forms_in_pytorch(tmp_path, capsys):
    output = tmp_path / "result.json"
    sizes = ["--classes", "2", "5", "--classifiers", "3", "--batch_size=4", "--rounds=2"]
    assert benchmark.main(["loss", *sizes, f"--json={output}"]) == 0
    table = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    result = json.loads(output.read_text())
    assert len(table) == 2 + 2
    for header, own, seconds in zip(
        ["2 classes, 3 classifiers", "5 classes, 3 classifiers"],
        table[2:],
        result["seconds"].values(),
        strict=True,
    ):
        medians = {name: np.median(rounds) for name, rounds in seconds.items()}
        assert all(len(rounds) == 2 for rounds in seconds.values())
        assert [cell.strip() for cell in (own[0], *own[4:])] == [
            header,
            f"{medians['PyTorch as released'] / medians['dks_jax']:.2f}",
            f"{medians['PyTorch stacked'] / medians['dks_jax']:.2f}",
        ]


@pytest.mark.parametrize("wrong", [1.0001, np.nan])
def test_losses_that_differ_are_refused(wrong):
    own, theirs = [np.array(1.0), np.ones((1, 1, 2))], [np.array(1.0), np.array([[[1.0, wrong]]])]
    loss.require_equal(own, own, "PyTorch")
    with pytest.raises(InputError, match=r"The gradient of .* PyTorch must differ by at most 1e-05"):
        loss.require_equal(own, theirs, "PyTorch")
