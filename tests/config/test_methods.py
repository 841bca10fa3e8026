"""The command line with a network that is quick to compile: every method, divergence, own images."""

import json
import math
import re
import shutil

import pytest

from dks_jax import train
from support.runs import DIGITS, SMALL, records, run, train_on, user_error

pytestmark = pytest.mark.usefixtures("tiny_model")


@pytest.mark.parametrize(
    "method",
    [
        "baseline",
        "top_down",
        pytest.param("ds", marks=pytest.mark.slow),
        pytest.param("bottom_up", marks=pytest.mark.slow),
    ],
)
def test_every_method_trains(method, tmp_path):
    assert train.main([f"{DIGITS}:{method}", *SMALL, "--config.epochs=1", f"--workdir={tmp_path}"]) == 0
    line = records(tmp_path)[0]
    crosses = sum(value for name, value in line.items() if name.startswith("cross_entropy/"))
    taught = {
        "ds": [],
        "baseline": [],
        "top_down": ["main->branch1", "main->branch2", "branch2->branch1"],
        "bottom_up": ["branch1->main", "branch2->main", "branch1->branch2"],
    }[method]
    assert line["loss"] == pytest.approx(crosses + sum(line[f"kl/{pair}"] for pair in taught), rel=1e-4)
    assert ("error/branch1" in line) == (method != "baseline")


def test_divergence_names_step_and_terms_and_writes_no_weights(tmp_path, capsys):
    fields = ["optimizer.learning_rate=1e30", "optimizer.warmup_epochs=0"]
    assert run(tmp_path / "run", *(f"--config.{field}" for field in fields)) == 2
    error = user_error(capsys)
    assert re.search(r"step [2-5] \(epoch [12]\): .*cross_entropy/main = (nan|inf)", error)
    assert "optimizer.learning_rate" in error
    assert not (tmp_path / "run" / "weights").exists()


def test_a_folder_of_own_images_trains_and_other_images_are_refused(image_folder, tmp_path, capsys):
    assert train_on(image_folder, tmp_path / "run") == 0
    assert math.isfinite(records(tmp_path / "run")[0]["loss"])
    metadata = json.loads((tmp_path / "run" / "weights" / "metadata.json").read_text())
    assert metadata["class_names"] == ["a", "b"]
    shutil.copy(image_folder / "train/a/1.png", image_folder / "train/a/3.png")
    assert train_on(image_folder, tmp_path / "run") == 2
    assert "train_images was 4 and is 5" in user_error(capsys)
