"""Deeply-supervised knowledge synergy for image classifiers in JAX and Flax NNX."""
