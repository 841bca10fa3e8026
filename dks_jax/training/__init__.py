"""Training: what a config describes, the compiled steps, and the loop that runs them."""

from dks_jax.training.experiment import Experiment, build_network, build_steps, prepare
from dks_jax.training.loop import train
from dks_jax.training.optimizers import cosine_schedule, sgd, step_schedule
from dks_jax.training.steps import Steps, TrainState

__all__ = [
    "Experiment",
    "Steps",
    "TrainState",
    "build_network",
    "build_steps",
    "cosine_schedule",
    "prepare",
    "sgd",
    "step_schedule",
    "train",
]
