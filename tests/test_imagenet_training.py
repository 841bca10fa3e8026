"""Training a ResNet with its branches as the ImageNet configs do, on a handful of images."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from comparison import assert_same_bits
from dks_jax import configuration, models, train
from dks_jax.models import resnet
from dks_jax.supervision import backbone_only
from runs import CONFIGS, last_checkpoint, records, whole_checkpoints, without_speed

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
resnet.WIDTHS = {}
sys.exit(train.main())
"""


class Settings(NamedTuple):
    """Of a training; widths: of the four stages; count: of images; error: in %, reached at its end."""

    widths: tuple[int, int, int, int]
    count: int
    size: int
    batch_size: int
    learning_rate: float
    epochs: int
    error: float


def command(folder, workdir, settings):
    """Arguments of a training without random crops, which would take many more epochs to learn by heart."""
    _, _, size, batch_size, learning_rate, epochs, _ = settings
    fields = ["source=folder", f"root={folder}", f"image_size={size}", f"batch_size={batch_size}"]
    fields += ["random_resized_crop=False", "flip=False"]
    return [
        *("--config", str(CONFIGS / "imagenet_resnet18.py")),
        *(f"--config.data.{field}" for field in fields),
        f"--config.epochs={epochs}",
        f"--config.optimizer.drop_epochs=({epochs * 2 // 3},)",
        f"--config.optimizer.learning_rate={learning_rate}",
        "--config.checkpoint_every_epochs=100",
        f"--workdir={workdir}",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        # A slim one that is on the way there: guessing gives 90 %.
        Settings((16, 32, 64, 128), 10, 32, 5, 0.02, 6, error=60.0),
        pytest.param(Settings(resnet.WIDTHS, 50, 96, 25, 0.02, 18, error=0.0), marks=pytest.mark.slow),
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
    capsys.readouterr()
    assert train.main(runs["killed"]) == 0
    assert f" of {settings.epochs} epochs and " in capsys.readouterr().out
    assert_same_bits(last_checkpoint(tmp_path / "killed"), last_checkpoint(tmp_path / "whole"))
    lines, expected = ([without_speed(r) for r in records(tmp_path / name)] for name in ("killed", "whole"))
    assert lines == expected


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_configs_fit_their_networks(depth):
    config = configuration.load(str(CONFIGS / f"imagenet_resnet{depth}.py"), {})
    models.check(config.model)
    assert (config.method, config.epochs, config.optimizer.drop_epochs) == ("dks", 100, (31, 61, 91))
    assert config.data.color_jitter == (0.4 if depth == 152 else 0.0)
    shapes = models.shapes(config.model, num_classes=1000, channels=3, branches=True)
    parameters = {n: s for n, s in shapes.items() if not n.endswith((".mean", ".var"))}
    count = sum(shape.size for shape in backbone_only(parameters).values())
    # As torchvision states them with its weights.
    published = {18: 11689512, 34: 21797672, 50: 25557032, 101: 44549160, 152: 60192808}
    assert count == published[depth]
