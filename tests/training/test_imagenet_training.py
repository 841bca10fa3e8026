"""Training a ResNet with its branches as the ImageNet configs do, on a handful of images."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from dks_jax import models, train
from dks_jax.models import load_config, resnet
from support.runs import CONFIGS, assert_same_end, records, whole_checkpoints

pytestmark = pytest.mark.usefixtures("usual_fusions")

PHOTOGRAPHS = os.environ.get("DKS_TEST_DATA")


def photographs(folder, count):
    """A folder of as many classes as images; two of them in val/ too, since to evaluate more takes time."""
    paths = sorted(Path(PHOTOGRAPHS, "imagenet_samples").glob("val/*/*"))[:count]
    for i, path in enumerate(paths):
        for split in ("train", "val") if i < 2 else ("train",):
            target = folder / split / path.parent.name / path.name
            target.parent.mkdir(parents=True)
            target.symlink_to(path)
    return folder


# `python -m dks_jax.train` with a ResNet of other widths.
TRAIN = """
import sys
from dks_jax import train
from dks_jax.models import resnet
from dks_jax.models import load_config
resnet.WIDTHS = {}
sys.exit(train.main())
"""


class Settings(NamedTuple):
    """Of a training; widths: of the four stages; count: of images; error: in %, reached at its end."""

    widths: tuple[int, int, int, int]
    count: int
    size: int
    batch_size: int
    epochs: int
    error: float


def command(folder, workdir, settings):
    """Arguments of a training without random crops, which would take many more epochs to learn by heart."""
    epochs = settings.epochs
    fields = ["data.source=folder", f"data.root={folder}", f"data.image_size={settings.size}"]
    fields += [f"data.batch_size={settings.batch_size}", "data.random_resized_crop=False", "data.flip=False"]
    fields += [f"epochs={epochs}", f"optimizer.drop_epochs=({epochs * 2 // 3},)"]
    fields += ["optimizer.learning_rate=0.02", "checkpoint_every_epochs=100"]
    config = f"--config={CONFIGS / 'imagenet_resnet18.py'}"
    return [config, f"--workdir={workdir}", *(f"--config.{field}" for field in fields)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        # A slim one that is on the way there: guessing gives 90 %.
        Settings((16, 32, 64, 128), 10, 32, 5, 6, error=60.0),
        Settings(resnet.WIDTHS, 50, 96, 25, 18, error=0.0),
    ],
)
def test_resnet18_learns_photographs_by_heart_and_a_killed_run_ends_as_an_unbroken_one(
    settings, tmp_path, monkeypatch, capsys
):
    if not PHOTOGRAPHS:
        pytest.skip("the environment variable DKS_TEST_DATA names no folder of images")
    folder = photographs(tmp_path / "images", settings.count)
    runs = {name: command(folder, tmp_path / name, settings) for name in ("whole", "killed")}
    monkeypatch.setattr(resnet, "WIDTHS", settings.widths)
    assert train.main(runs["whole"]) == 0
    errors = [record["error"] for record in records(tmp_path / "whole") if record["split"] == "train"]
    print("train errors by epoch, %:", *errors)
    assert errors[-1] <= settings.error
    # Killed within an epoch, not the first, by checkpoints after every step.
    program = [sys.executable, "-c", TRAIN.format(settings.widths), *runs["killed"]]
    saving = [*program, "--config.checkpoint_every_minutes=1e-9"]
    process = subprocess.Popen(saving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    steps = settings.count // settings.batch_size
    try:
        while not any(step > 1 and step % steps for step in whole_checkpoints(tmp_path / "killed")):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    killed_at = whole_checkpoints(tmp_path / "killed")[-1]
    capsys.readouterr()
    assert train.main(runs["killed"]) == 0
    assert f" and {killed_at % steps} of {steps} " in capsys.readouterr().out
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_configs_fit_their_networks(depth):
    config = load_config(str(CONFIGS / f"imagenet_resnet{depth}.py"), {})
    models.check(config.model)
    assert (config.method, config.epochs, config.optimizer.drop_epochs) == ("dks", 100, (31, 61, 91))
    assert config.data.color_jitter == (0.4 if depth == 152 else 0.0)
    shapes = models.shapes(models.Network(config.model, (), 1000, 3))
    parameters = {n: s for n, s in shapes.items() if not n.endswith((".mean", ".var"))}
    count = sum(shape.size for shape in parameters.values())
    # As torchvision states them with its weights.
    published = {18: 11689512, 34: 21797672, 50: 25557032, 101: 44549160, 152: 60192808}
    assert count == published[depth]
