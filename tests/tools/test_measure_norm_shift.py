"""The tool that measures how far means of batches lie from the running mean."""

import measure_norm_shift
import numpy as np
import pytest
from PIL import Image

from support.runs import DIGITS, user_error

SMALL = ["--config.data.train_per_class=2", "--config.data.batch_size=10"]


@pytest.mark.usefixtures("tiny_model")
def test_it_prints_and_draws_the_steps(tmp_path, capsys):
    output = tmp_path / "shift.png"
    arguments = [DIGITS, *SMALL, "--steps=3", f"--output={output}"]
    assert measure_norm_shift.main(arguments) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows[2:]] == ["1", "2", "3"]
    assert all(0 < float(row[1]) <= float(row[2]) < 100 for row in rows[2:])
    with Image.open(output) as image:
        assert min(image.size) > 300


def test_distances_follow_from_running_statistics():
    before = {"bn.mean": np.array([1.0, -2.0]), "bn.var": np.array([1.0, 4.0])}
    mean, var = np.array([4.0, -2.0]), np.array([9.0, 1.0])
    after = {"bn.mean": 0.9 * before["bn.mean"] + 0.1 * mean, "bn.var": 0.9 * before["bn.var"] + 0.1 * var}
    np.testing.assert_allclose(measure_norm_shift.distance(before, after), [1, 0], atol=1e-9)


def test_a_folder_that_is_absent_is_named_before_anything_is_trained(tmp_path, capsys):
    output = tmp_path / "absent" / "shift.png"
    assert measure_norm_shift.main([DIGITS, f"--output={output}"]) == 2
    error = user_error(capsys, alone=True)
    assert "--output" in error
    assert str(output.parent) in error


def test_no_steps_are_refused(tmp_path, capsys):
    assert measure_norm_shift.main([DIGITS, "--steps=0", f"--output={tmp_path / 'shift.png'}"]) == 2
    error = user_error(capsys)
    assert "--steps" in error
    assert "0" in error
