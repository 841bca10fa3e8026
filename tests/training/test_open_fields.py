"""Fields that a config leaves open: a run finds them at its start, writes them down and keeps to them."""

import json

import numpy as np
import pytest
from PIL import Image

from dks_jax.weights import load_network
from support.by_heart import picture
from support.runs import records, train_on, user_error

pytestmark = pytest.mark.usefixtures("tiny_model")

OPEN = ["--config.data.mean=()", "--config.data.std=()"]


def fill(root, *splits, channels=3):
    """Four images of 8x8 pixels in each split, two of each class."""
    for split in splits:
        for i in range(4):
            path = root / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(10 * len(split) + i, channels=channels)).save(path)
    return root


def written(workdir):
    return json.loads((workdir / "config.json").read_text())["config"]["data"]


def test_a_run_writes_down_what_it_has_found(tmp_path):
    root, workdir = fill(tmp_path / "images", "train", "val", "test"), tmp_path / "run"
    assert train_on(root, workdir, *OPEN) == 0
    found = written(workdir)
    assert (found["train_split"], found["held_out"], found["channels"]) == ("train", "val", 3)
    pixels = np.stack([picture(50 + i) for i in range(4)]) / 255
    np.testing.assert_allclose(found["mean"], pixels.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["std"], pixels.std((0, 1, 2)), rtol=1e-5)
    _, metadata = load_network(workdir)
    assert metadata.preprocessing.mean == tuple(found["mean"])


def test_a_run_goes_on_with_what_it_has_found(tmp_path):
    root, workdir = fill(tmp_path / "images", "train", "test"), tmp_path / "run"
    assert train_on(root, workdir, *OPEN) == 0
    # A val split that comes later is not held out by this run.
    fill(root, "val")
    assert train_on(root, workdir, *OPEN, "--config.epochs=2") == 0
    assert written(workdir)["held_out"] == "test"
    assert [record["epoch"] for record in records(workdir)] == [1, 1, 2, 2]


def test_another_split_is_another_config(tmp_path, capsys):
    root, workdir = fill(tmp_path / "images", "train", "val", "test"), tmp_path / "run"
    assert train_on(root, workdir) == 0
    capsys.readouterr()
    assert train_on(root, workdir, "--config.data.held_out=test") == 2
    assert "data.held_out" in user_error(capsys)


def test_a_run_of_before_the_fields_goes_on(tmp_path):
    root, workdir = fill(tmp_path / "images", "train", "test"), tmp_path / "run"
    assert train_on(root, workdir) == 0
    description = json.loads((workdir / "config.json").read_text())
    for field in ("train_split", "held_out", "channels"):
        del description["config"]["data"][field]
    (workdir / "config.json").write_text(json.dumps(description))
    assert train_on(root, workdir, "--config.epochs=2") == 0
    assert len(records(workdir)) == 4


@pytest.mark.slow
def test_a_grey_network_is_trained_on_grey_images(tmp_path):
    root, workdir = fill(tmp_path / "images", "train", "val", channels=1), tmp_path / "run"
    assert train_on(root, workdir, *OPEN, "--config.data.channels=1") == 0
    _, metadata = load_network(workdir)
    assert metadata.preprocessing.channels == 1
    # Weights decide where the field is open.
    further = tmp_path / "further"
    assert train_on(root, further, *OPEN, f"--config.init_weights={workdir}") == 0
    assert written(further)["channels"] == 1
    assert written(further)["mean"] == list(metadata.preprocessing.mean)


@pytest.mark.parametrize("streamed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_goes_on_with_an_image_that_has_gone_bad(tmp_path, capsys, streamed):
    root, workdir = fill(tmp_path / "images", "train", "val"), tmp_path / "run"
    for i in range(4, 40):
        Image.fromarray(picture(i)).save(root / "train" / "ab"[i % 2] / f"{i}.png")
    fields = [f"--config.data.streamed={streamed}"]
    assert train_on(root, workdir, *fields) == 0
    bad = root / "train/a/2.png"
    bad.write_bytes(b"no image any more" if streamed else bytes(bad.stat().st_size))
    capsys.readouterr()
    assert train_on(root, workdir, *fields, "--config.epochs=2") == 2
    error = user_error(capsys)
    assert "--skip_unreadable" in error
    assert train_on(root, workdir, *fields, "--config.epochs=2", "--skip_unreadable") == 0
    assert str(bad) in capsys.readouterr().out
    assert len(records(workdir)) == 4
