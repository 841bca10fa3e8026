"""The command line: what a run leaves, and a finished run that is started again."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from dks_jax import train
from dks_jax.data.augmentation import normalise
from dks_jax.data.sources import digits
from dks_jax.runtime import hosts
from dks_jax.weights import load_network
from support.runs import CONFIGS, DIGITS, file_times, last_checkpoint, records, run, user_error


def test_a_run_leaves_its_files(unbroken):
    found = {path.name for path in unbroken.iterdir()}
    (events,) = (name for name in found if name.startswith("events.out.tfevents"))
    files = {"config.json", "metrics.jsonl", "curves.png"}
    assert found == files | {"checkpoints", "weights", "best_weights", events}
    with Image.open(unbroken / "curves.png") as image:
        assert min(image.size) > 300
    description = json.loads((unbroken / "config.json").read_text())
    assert (description["config"]["method"], description["config"]["epochs"]) == ("dks", 3)
    assert {"jax", "flax", "optax", "dks-jax", "python"} <= description["versions"].keys()
    assert description["devices"]
    assert description["commit"]
    assert description["config_file"] == DIGITS.removeprefix("--config=")


def test_metrics_have_a_line_per_epoch_and_split(unbroken):
    lines = records(unbroken)
    assert [(line["epoch"], line["split"], line["step"]) for line in lines] == [
        (epoch, split, 2 * epoch) for epoch in (1, 2, 3) for split in ("train", "test")
    ]
    for line in lines:
        terms = [value for name, value in line.items() if name.startswith(("cross_entropy/", "kl/"))]
        assert len(terms) == 9
        assert line["loss"] == pytest.approx(sum(terms), rel=1e-4)
        assert line["error"] == line["error/main"]
        assert {"error/branch1", "error/branch2", "learning_rate", "images_per_second"} <= line.keys()
        wrong = line["error"] / 100 * {"train": 100, "test": 20}[line["split"]]
        assert wrong == pytest.approx(round(wrong))


def test_weights_keep_the_branches_and_classify(unbroken):
    arrays = ocp.StandardCheckpointer().restore((unbroken / "weights").resolve())
    assert arrays.keys() == {"params", "batch_stats"}
    trained = last_checkpoint(unbroken)["params"]
    assert arrays["params"].keys() == trained.keys()
    for name, value in arrays["params"].items():
        np.testing.assert_array_equal(value, trained[name])

    network, metadata = load_network(unbroken / "weights")
    assert metadata.class_names == tuple(map(str, range(10)))
    test = digits.load(0).test
    kept = np.sort(np.concatenate([np.flatnonzero(test.labels == label)[:2] for label in range(10)]))
    preprocessing = metadata.preprocessing
    images = normalise(test.images[kept], preprocessing["mean"], preprocessing["std"])
    error = 100 * np.mean(np.argmax(network(images)[-1], axis=-1) != test.labels[kept])
    assert error == pytest.approx(records(unbroken)[-1]["error"])


@pytest.mark.usefixtures("tiny_model")
def test_the_passes_of_batch_normalisation_are_recorded(unbroken, tmp_path):
    def recorded(workdir):
        return json.loads((workdir / "config.json").read_text())["config"]["norm_statistics"]

    assert recorded(unbroken) == "two_pass"
    assert run(tmp_path / "run", "--config.norm_statistics=one_pass", "--config.epochs=1") == 0
    assert recorded(tmp_path / "run") == "one_pass"
    # Another way to compute them gives other bits, and the same run up to rounding.
    ours, theirs = (records(folder)[0]["loss"] for folder in (tmp_path / "run", unbroken))
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_model")
def test_on_many_devices_the_log_says_what_batch_normalisation_costs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert run(tmp_path / "shared", "--config.epochs=1") == 0
    assert "--config.norm_groups=8" in capsys.readouterr().out
    assert run(tmp_path / "separate", "--config.epochs=1", "--config.norm_groups=2") == 0
    assert "norm_groups" not in capsys.readouterr().out


def test_a_finished_run_that_is_started_again_says_its_result(unbroken, tmp_path, capsys):
    """Elsewhere, by another version and with other checkpoints; lost curves are drawn again."""
    copy = shutil.copytree(unbroken, tmp_path / "copy")
    (copy / "curves.png").unlink()
    before = json.loads((copy / "config.json").read_text()) | {"commit": "an older one"}
    (copy / "config.json").write_text(json.dumps(before))
    assert run(copy, "--config.data.root=elsewhere", "--config.checkpoint_every_epochs=2") == 0
    assert f"{records(unbroken)[-1]['error']:.2f} %" in capsys.readouterr().out.splitlines()[-1]
    assert (copy / "curves.png").exists()
    assert (copy / "metrics.jsonl").read_text() == (unbroken / "metrics.jsonl").read_text()
    after = json.loads((copy / "config.json").read_text())
    start, changes = after.pop("resumed")
    assert start["commit"] == json.loads((unbroken / "config.json").read_text())["commit"]
    # Fields that do not touch the result are recorded too.
    assert changes == {"step": 6, "data.root": ["", "elsewhere"], "checkpoint_every_epochs": [1, 2]}
    before["config"]["data"]["root"] = "elsewhere"
    before["config"]["checkpoint_every_epochs"] = 2
    assert after | {"resumed": []} == before


def test_the_workdir_of_another_config_is_refused_and_left_alone(unbroken, capsys):
    before = file_times(unbroken)
    assert run(unbroken, "--config.seed=1", "--config.optimizer.learning_rate=0.2") == 2
    error = user_error(capsys)
    assert "optimizer.learning_rate was 0.1 and is 0.2" in error
    assert "seed was 0 and is 1" in error
    assert file_times(unbroken) == before


def test_a_process_that_sees_other_data_than_the_first_is_refused(unbroken, monkeypatch, capsys):
    whole = digits.load
    monkeypatch.setattr(digits, "load", lambda: whole(split_seed=1))
    monkeypatch.setattr(hosts, "is_primary", lambda: False)
    monkeypatch.setattr(hosts, "on_primary", lambda action: None)
    assert run(unbroken) == 2
    assert "test_checksum" in user_error(capsys)


def test_the_default_workdir_names_config_method_and_seed():
    command = train.parse([f"{DIGITS}:ds", "--config.seed=5"])
    assert command.workdir == Path("runs/digits_wrn-ds-seed5")


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_shipped_config_is_complete(config):
    for method in ("dks", "ds", "baseline", "top_down", "bottom_up"):
        loaded = train.parse([f"--config={config}:{method}"]).config
        assert loaded.method == method
        # The published values of the method are every config's defaults.
        synergy = {"alpha": 1.0, "temperature": 1.0, "epsilon": 1e-8, "teaches": "method"}
        synergy["branch_warmup"] = "auto"
        assert synergy.items() <= dict(loaded.synergy).items()
