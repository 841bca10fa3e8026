"""Training: what a config describes, the compiled steps, and the loop that runs them.

`build_steps` and `Steps` train a network of your own in a loop of your own. For checkpoints, logs and tables
register it as a family, `models.NETWORKS["mine"] = Family(...)`, and call `dks_jax.train.main` with a config
that names it; docs/own_model.md shows both.
"""

from dks_jax.runtime.devices import Devices
from dks_jax.training.branch_warmup import resolve_branch_warmup
from dks_jax.training.experiment import Experiment, build_network, build_steps, prepare
from dks_jax.training.loop import train
from dks_jax.training.optimizers import adamw, lamb, sgd
from dks_jax.training.schedules import cosine_schedule, one_cycle_schedule, step_schedule
from dks_jax.training.steps import Steps, TrainState

__all__ = [
    "Devices",
    "Experiment",
    "Steps",
    "TrainState",
    "adamw",
    "build_network",
    "build_steps",
    "cosine_schedule",
    "lamb",
    "one_cycle_schedule",
    "prepare",
    "resolve_branch_warmup",
    "sgd",
    "step_schedule",
    "train",
]
