"""The types in which a network can compute, by their names in a config."""

import jax.numpy as jnp
from jax.typing import DTypeLike

DTYPES: dict[str, DTypeLike] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
