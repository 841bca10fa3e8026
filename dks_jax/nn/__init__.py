"""Layers that compute as PyTorch does, and modules as pure functions of their arrays."""

from dks_jax.nn.convolution import convolve
from dks_jax.nn.derivatives import forward_mode
from dks_jax.nn.functional import Arrays, Functional, checksum, get_arrays, get_params, set_arrays
from dks_jax.nn.layers import BatchNorm, Conv, Dense, LayerNorm, LayerScale, Linear, Patches, Stage
from dks_jax.nn.macs import count_macs
from dks_jax.nn.pooling import max_pool
from dks_jax.runtime.forms import forms

__all__ = [
    "Arrays",
    "BatchNorm",
    "Conv",
    "Dense",
    "Functional",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "Patches",
    "Stage",
    "checksum",
    "convolve",
    "count_macs",
    "forms",
    "forward_mode",
    "get_arrays",
    "get_params",
    "max_pool",
    "set_arrays",
]
