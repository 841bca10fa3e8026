"""Which split of a data set is the training split, and which one is held out."""

from collections.abc import Sequence

from dks_jax.runtime.errors import InputError

KINDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# A run is watched on the validation images, so that the test images stay for the evaluation of its result.
IN_TRAINING = ("val", "test")
IN_EVALUATION = ("test", "val")


def choose(names: Sequence[str], kinds: Sequence[str], field: str) -> str | None:
    """The split of the first kind that is there; None if there is none. Case does not matter.

    Args:
      names: names of the splits that have classes.
      kinds: names in KINDS, the preferred one first.
      field: field of `config.data` that chooses otherwise, for the error message.

    Raises:
      InputError: there are two splits of one kind.
    """
    by_kind = {kind: [name for name in names if name.lower() in KINDS[kind]] for kind in kinds}
    for kind, found in by_kind.items():
        if len(found) > 1:
            raise InputError(
                f"`data.{field}` must name a split where there are two of one kind; {' and '.join(found)} "
                f"are both {kind} splits."
            )
    return next((found[0] for found in by_kind.values() if found), None)
