"""The command line: what a run leaves, resuming, divergence, devices."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from dks_jax import train, workdir
from dks_jax.data import digits
from dks_jax.data.augment import normalise
from dks_jax.weights import load_network, load_weights
from runs import (
    CONFIGS,
    DIGITS,
    FOUR_DEVICES,
    last_checkpoint,
    records,
    run,
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The workdir of a whole run."""
    workdir = tmp_path_factory.mktemp("runs") / "unbroken"
    assert run(workdir) == 0
    return workdir


def test_a_run_leaves_its_files(unbroken):
    expected = {"config.json", "metrics.jsonl", "curves.png", "checkpoints", "weights"}
    found = {path.name for path in unbroken.iterdir()}
    assert expected <= found
    assert any(name.startswith("events.out.tfevents") for name in found)
    assert not [name for name in found if "partial" in name]
    with Image.open(unbroken / "curves.png") as image:
        assert min(image.size) > 300


def test_config_json_tells_config_versions_devices_and_commit(unbroken):
    description = json.loads((unbroken / "config.json").read_text())
    assert description["config"]["method"] == "dks"
    assert description["config"]["epochs"] == 3
    assert {"jax", "flax", "optax", "dks-jax", "python"} <= description["versions"].keys()
    assert description["devices"]
    assert description["commit"]


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
        # A whole number of wrong answers among 100 or 20.
        assert (line["error"] / 100 * (100 if line["split"] == "train" else 20)) == pytest.approx(
            round(line["error"] / 100 * (100 if line["split"] == "train" else 20))
        )


def test_tensorboard_events_hold_the_same_figures(unbroken):
    # A TFRecord: length, checksum of the length, event, checksum of the event; float values stand in the
    # event as a little-endian float32 after the field tag 0x15 (simple_value).
    (file,) = unbroken.glob("events.out.tfevents*")
    content = file.read_bytes()
    events = []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        events.append(content[12 : 12 + length])
        content = content[16 + length :]
    for line in records(unbroken):
        for name in line.keys() - {"step", "epoch", "split"}:
            wanted = b"\x15" + struct.pack("<f", line[name])
            tag = f"{line['split']}/{name.replace('->', '_to_')}".encode()
            assert any(tag in event and wanted in event for event in events), name


def test_weights_are_the_backbone_and_classify(unbroken):
    arrays = ocp.StandardCheckpointer().restore((unbroken / "weights").resolve())
    assert arrays.keys() == {"params", "batch_stats"}
    assert not [name for name in arrays["params"] if name.startswith("branches")]
    trained = last_checkpoint(unbroken)["params"]
    for name, value in arrays["params"].items():
        np.testing.assert_array_equal(value, trained[name])

    network, metadata = load_network(unbroken / "weights")
    assert metadata["class_names"] == [str(i) for i in range(10)]
    test = digits.load(0).test
    kept = np.sort(np.concatenate([np.flatnonzero(test.labels == label)[:2] for label in range(10)]))
    preprocessing = metadata["preprocessing"]
    images = normalise(test.images[kept], preprocessing["mean"], preprocessing["std"])
    error = 100 * np.mean(np.argmax(network(images)[-1], axis=-1) != test.labels[kept])
    assert error == pytest.approx(records(unbroken)[-1]["error"])


def test_a_finished_run_started_again_says_its_result(unbroken, capsys):
    before = (unbroken / "metrics.jsonl").read_text()
    assert run(unbroken) == 0
    output = capsys.readouterr().out
    assert "result: test error" in output
    # The log begins with what is trained, on what, and how long.
    assert output.splitlines()[:4] == [
        "wide_resnet (depth 16, dropout 0.0, width 1), method dks: in training 751,790 parameters and "
        "4.3 million MACs per image (forward); in use 174,778 and 1.6 million",
        "digits: 100 training and 20 held-out images of 8x8x1 in 10 classes, in memory",
        "3 epochs of 2 steps with 50 images, float32, on 1 cpu device(s) of 1 process(es)",
        "going on after 3 of 3 epochs",
    ]
    assert (unbroken / "metrics.jsonl").read_text() == before


def test_the_default_workdir_names_config_method_and_seed():
    command = train.parse([f"{DIGITS}:ds", "--config.seed=5"])
    assert command.workdir == Path("runs/digits_wrn-ds-seed5")


def test_weights_saved_on_four_devices_load_on_one(tmp_path):
    program = f"""
import pathlib
import jax.numpy as jnp
from dks_jax.weights_folder import Weights, save_weights
from dks_jax.steps import Devices
arrays = Devices().replicate({{"w": jnp.arange(3.0)}})
save_weights(pathlib.Path({str(tmp_path / "weights")!r}), Weights(arrays, {{}}, {{}}))
"""
    subprocess.run([sys.executable, "-c", program], env=os.environ | FOUR_DEVICES, check=True)
    params = load_weights(tmp_path / "weights").params
    np.testing.assert_array_equal(params["w"], [0, 1, 2])


@pytest.mark.slow
def test_the_digits_end_below_three_percent(tmp_path):
    assert train.main([DIGITS, f"--workdir={tmp_path}"]) == 0
    assert records(tmp_path)[-1]["error"] < 3


def test_the_workdir_of_another_config_is_refused_and_left_alone(unbroken, capsys):
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    assert run(unbroken, "--config.seed=1", "--config.optimizer.learning_rate=0.2") == 2
    error = capsys.readouterr().err
    assert "optimizer.learning_rate was 0.1 and is 0.2; seed was 0 and is 1" in error
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")} == before


def test_another_start_is_added_to_config_json(unbroken, tmp_path, monkeypatch):
    shutil.copytree(unbroken, tmp_path / "copy")
    before = json.loads((unbroken / "config.json").read_text())
    monkeypatch.setattr(workdir, "_commit", lambda: "another")
    assert run(tmp_path / "copy") == 0
    after = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert [start["commit"] for start in after.pop("resumed")] == ["another"]
    before.pop("resumed")
    assert after == before


def test_moved_data_and_more_checkpoints_are_no_other_run(unbroken):
    assert run(unbroken, "--config.data.root=elsewhere", "--config.checkpoint_every_epochs=2") == 0


def test_lost_curves_are_drawn_again(unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path / "copy")
    (tmp_path / "copy" / "curves.png").unlink()
    assert run(tmp_path / "copy") == 0
    assert (tmp_path / "copy" / "curves.png").exists()


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_shipped_config_is_complete(config):
    for method in ("dks", "ds", "baseline", "top_down", "bottom_up"):
        loaded = train.parse([f"--config={config}:{method}"]).config
        assert loaded.method == method
        # The published values of the method are every config's defaults.
        assert dict(loaded.synergy) == {"alpha": 1.0, "temperature": 1.0, "epsilon": 1e-8}
