"""An epoch of a network in float64, for comparisons between numbers of devices.

`python float64_epoch.py MODEL FILE` trains it on all devices and saves the losses; MODEL is JSON.
"""

import json
import sys
from typing import Any

import jax
import numpy as np

from dks_jax import models
from support.foreign_networks import train_epoch
from support.tiny_steps import NUM_CLASSES


def losses(model: dict[str, Any]) -> np.ndarray:
    """The losses of its steps, with x64 enabled; `model` has its name and its arguments."""
    return train_epoch(models.build(model, num_classes=NUM_CLASSES, channels=3, seed=0))["losses"]


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    np.save(sys.argv[2], losses(json.loads(sys.argv[1])))
