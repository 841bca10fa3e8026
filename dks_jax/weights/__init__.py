"""Weights on disk, as folders of this library or PyTorch checkpoints, and the networks they belong to."""

from dks_jax.weights.folder import METADATA, Weights, save_weights
from dks_jax.weights.loading import (
    adopt_progress,
    adopt_weights,
    build_network,
    find_start,
    find_weights,
    load_network,
    load_weights,
    require_head,
)
from dks_jax.weights.metadata import Metadata
from dks_jax.weights.torch_weights import read_checkpoint, write_checkpoint

__all__ = [
    "METADATA",
    "Metadata",
    "Weights",
    "adopt_progress",
    "adopt_weights",
    "build_network",
    "find_start",
    "find_weights",
    "load_network",
    "load_weights",
    "read_checkpoint",
    "require_head",
    "save_weights",
    "write_checkpoint",
]
