"""The metadata needed to use weights: the network, its classes and the preprocessing of its images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dks_jax.config import PUBLISHED
from dks_jax.data import View
from dks_jax.models import Network, Preprocessing, resolve_branches
from dks_jax.runtime.errors import InputError, printable
from dks_jax.runtime.records import Record
from dks_jax.supervision import BranchSpec

# The fields that the file must have, and their types.
NEEDED = {
    "model.name": str,
    "class_names": list,
    "preprocessing.name": str,
    "preprocessing.height": int,
    "preprocessing.width": int,
    "preprocessing.channels": int,
    "preprocessing.mean": list,
    "preprocessing.std": list,
}


@dataclass(frozen=True)
class Metadata(Record):
    """The description of weights.

    Attributes:
      model: name of the network and its arguments.
      branches: auxiliary classifiers of the weights, shallowest fork first.
      class_names: names of the classes in label order.
      preprocessing: how images become the input of the network.
      epoch: number of complete epochs of training; None if unknown.
      test_error: top-1 error of the main classifier on the held-out images then, in %; None if unknown.
      imported: whether the weights come from a PyTorch checkpoint.
      num_batches_tracked: batch counters of a PyTorch checkpoint, by their PyTorch names.
      optimizer: optimizer settings of a PyTorch checkpoint.
    """

    model: dict[str, Any]
    branches: tuple[BranchSpec, ...]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    epoch: int | None = None
    test_error: float | None = None
    imported: bool = False
    num_batches_tracked: Mapping[str, int] | None = None
    optimizer: Mapping[str, Any] | None = None

    @property
    def network(self) -> Network:
        """The description from which the network is built."""
        return Network(self.model, self.branches, len(self.class_names), self.preprocessing.channels)

    @property
    def view(self) -> View:
        """How a decoded image becomes the pixels that the network takes, before they are normalised."""
        own = self.preprocessing
        return View(
            own.height,
            own.channels,
            own.name,
            crop_ratio=own.crop_ratio,
            interpolation=own.interpolation,
        )


def from_json(fields: Mapping[str, Any], *, has_branches: bool) -> Metadata:
    """Restores metadata from the result of `Metadata.to_json`.

    Args:
      fields: the parsed JSON.
      has_branches: whether the weights have branches. Older versions wrote only the published branches and
        did not describe them.

    Raises:
      InputError: a field is missing or of another type, e.g. because somebody edited the file.
    """
    for field, kind in NEEDED.items():
        value: Any = fields
        for key in field.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise InputError(
                f"The metadata of the weights must have `{field}` as it was written; got "
                f"{printable(repr(value))}: put a copy of the file back."
            )
    own = dict(fields)
    preprocessing = own["preprocessing"]
    known = {
        name: preprocessing[name] for name in Preprocessing.__dataclass_fields__ if name in preprocessing
    }
    known |= {name: tuple(known[name]) for name in ("mean", "std")}
    published = PUBLISHED if has_branches else ()
    own["branches"] = resolve_branches(own["model"], own.get("branches", published))
    own["class_names"] = tuple(own["class_names"])
    own["preprocessing"] = Preprocessing(**known)
    own.setdefault("imported", own["preprocessing"].assumed)
    return Metadata(**{name: value for name, value in own.items() if name in Metadata.__dataclass_fields__})
