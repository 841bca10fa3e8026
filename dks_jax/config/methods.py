"""Training methods: each name stands for the branches of a network and a teaching matrix."""

from typing import Any, NamedTuple

BY_METHOD = "method"
"""The value of `model.branches` and of `synergy.teaches` that leaves the choice to `method`."""
PUBLISHED = "published"
"""The value of `model.branches` that stands for the branches in the publication of the network."""


class Method(NamedTuple):
    """The branches and the teaching matrix that a network is trained with.

    Attributes:
      branches: "published", or tuples (after, blocks, widths); see `supervision.BranchSpec`.
      teaches: a name in `synergy.TEACHES`, or the rows of a matrix [teacher, student].
    """

    branches: Any
    teaches: Any


METHODS = {
    "dks": Method(PUBLISHED, "all_pairs"),
    "ds": Method(PUBLISHED, "no_pairs"),
    "baseline": Method((), "no_pairs"),
    "top_down": Method(PUBLISHED, "top_down"),
    "bottom_up": Method(PUBLISHED, "bottom_up"),
}
"""The methods by their names in a config."""


def resolve(config: Any) -> Method:
    """The branches and the teaching matrix of a config; its method gives those that it does not set.

    Args:
      config: a config in which every field is set.
    """
    own = METHODS[config.method]
    branches, teaches = config.model.branches, config.synergy.teaches
    return Method(
        own.branches if branches == BY_METHOD else branches,
        own.teaches if teaches == BY_METHOD else teaches,
    )
