"""Early exit: an image leaves a network at the first classifier that is sure of it, and costs no more."""

from dks_jax.inference.exits.costs import Costs, costs_of
from dks_jax.inference.exits.fitting import Halves, Measures, Point, fit, halves
from dks_jax.inference.exits.operating_point import read
from dks_jax.inference.exits.rules import Confidence, Patience, Rule, where_left
from dks_jax.inference.exits.staged import Left, StagedNetwork

__all__ = [
    "Confidence",
    "Costs",
    "Halves",
    "Left",
    "Measures",
    "Patience",
    "Point",
    "Rule",
    "StagedNetwork",
    "costs_of",
    "fit",
    "halves",
    "read",
    "where_left",
]
