"""The configs of the networks for CIFAR train on digits: in bfloat16 with remat, stopped, on four devices."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from dks_jax import train
from dks_jax.models import load_config
from support import float64_epoch
from support.runs import CONFIGS, FOUR_DEVICES, ROOT, assert_falling, assert_same_end, losses, signal_after

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation", "default_signals")]

ON_DIGITS = {
    "data.source": "digits",
    "data.image_size": 8,
    "data.padding": 1,
    "data.mean": (0.3,),
    "data.std": (0.4,),
    "data.train_per_class": 10,
    "data.test_per_class": 2,
    "data.batch_size": 52,
    "epochs": 3,
}
# By config, what makes its network a small one.
SMALL = {
    "resnet32": {"model.depth": 8},
    "densenet40": {"model.depth": 10},
    "densenet_bc100": {"model.depth": 16},
    # At the rate of its recipe, 0.1, six steps on so few digits lead astray, and rounding grows.
    "mobilenet": {"optimizer.learning_rate": 0.001},
    "wrn16_8": {"model.width": 1},
}
configs = pytest.mark.parametrize("config", SMALL)


def command(config: str, workdir, **fields) -> list[str]:
    given = ON_DIGITS | SMALL[config] | fields
    flags = [f"--config.{name}={value}" for name, value in given.items()]
    return [f"--config={CONFIGS / f'cifar100_{config}.py'}", f"--workdir={workdir}", *flags]


@configs
def test_it_trains_in_bfloat16_with_remat(config, tmp_path):
    assert train.main(command(config, tmp_path, precision="bfloat16", remat=True)) == 0
    assert_falling(losses(tmp_path))


@configs
def test_a_stopped_run_ends_as_the_unbroken_one(config, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train.main(command(config, whole)) == 0
    with monkeypatch.context() as patch:
        signal_after(patch, "train", 3, signal.SIGTERM)
        assert train.main(command(config, stopped)) == 128 + signal.SIGTERM
    assert train.main(command(config, stopped)) == 0
    assert_same_end(stopped, whole)


@configs
def test_four_devices_agree_with_one(config, tmp_path, x64):
    """In float64, since the rounding of float32 grows from step to step."""
    fields = {name: str(value) for name, value in SMALL[config].items() if name.startswith("model.")}
    model = dict(load_config(str(CONFIGS / f"cifar100_{config}.py"), fields).model)
    del model["branches"]
    file = tmp_path / "losses.npy"
    script = ROOT / "tests" / "support" / "float64_epoch.py"
    program = [sys.executable, str(script), json.dumps(model), str(file)]
    environment = {**os.environ, **FOUR_DEVICES, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(program, env=environment, check=True, capture_output=True)
    ours = float64_epoch.losses(model)
    assert len(ours) == 3
    np.testing.assert_allclose(np.load(file), ours, rtol=1e-9)
