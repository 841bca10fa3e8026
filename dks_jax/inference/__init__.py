"""Inference: the forward pass of trained networks, their evaluation and their predictions."""

from dks_jax.inference.evaluation import Evaluation, Result, evaluate, prepare
from dks_jax.inference.forward import Forward, Output
from dks_jax.inference.metrics import Metrics
from dks_jax.inference.prediction import Prediction, predict

__all__ = [
    "Evaluation",
    "Forward",
    "Metrics",
    "Output",
    "Prediction",
    "Result",
    "evaluate",
    "predict",
    "prepare",
]
