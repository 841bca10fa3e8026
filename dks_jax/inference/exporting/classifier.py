"""What is exported: one classifier of a network as a function of images, and its description."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp

import dks_jax
from dks_jax import models
from dks_jax.data.augmentation import normalise
from dks_jax.data.imagenet_classes import display_name
from dks_jax.nn import forms
from dks_jax.runtime.errors import InputError
from dks_jax.weights import Weights, build_network

INPUTS = ("uint8", "float")
"""The kinds of input: pixels, or images that are normalised already."""
OUTPUTS = ("logits", "probabilities")
"""The kinds of output."""


class Exported:
    """One classifier of weights, with the kind of its input and of its output.

    Args:
      weights: weights with a head; see `weights.require_head`.
      classifier: name of the classifier, e.g. "branch1".
      input: "uint8" for pixels, or "float" for images that are normalised already.
      output: "logits" or "probabilities".

    Attributes:
      network: the path to the classifier alone, in evaluation mode.
      metadata: metadata of the weights.

    Raises:
      InputError: the weights do not have the classifier, or an argument is not one of its words.
    """

    def __init__(
        self, weights: Weights, classifier: str = "main", input: str = "uint8", output: str = "logits"
    ):
        for name, value, words in (("input", input, INPUTS), ("output_kind", output, OUTPUTS)):
            if value not in words:
                raise InputError(f"`{name}` must be one of {', '.join(words)}; got {value!r}.")
        self.weights = weights
        self.metadata = weights.metadata
        self.classifier = classifier
        self.input = input
        self.output = output
        self.network = build_network(weights).classifier(classifier)

    @property
    def dtype(self) -> Any:
        """Type of the images."""
        return jnp.uint8 if self.input == "uint8" else jnp.float32

    def images(self, batch: Any) -> jax.ShapeDtypeStruct:
        """Shape and type of the input for a batch, which may be a symbolic dimension."""
        return jax.ShapeDtypeStruct((batch, *self.metadata.preprocessing.shape), self.dtype)

    def function(self) -> Callable[[jax.Array], jax.Array]:
        """The function from images [batch, height, width, channel] to float32 [batch, class].

        It is traced in the same form for every platform, with plain convolutions and arithmetic for the
        normalisation, and float32 has full precision on accelerators too.
        """
        mean, std = self.metadata.preprocessing.mean, self.metadata.preprocessing.std

        def classify(images: jax.Array) -> jax.Array:
            with jax.default_matmul_precision("highest"), forms("accelerator"):
                pixels = normalise(images, mean, std) if self.input == "uint8" else images
                (logits,) = self.network(pixels)
                return logits if self.output == "logits" else jax.nn.softmax(logits)

        return classify

    def description(self) -> dict[str, Any]:
        """What a user of the file must know, in types that JSON can hold.

        Class names are those that prediction shows. The preprocessing brings a decoded image to the size of
        the input. Mean and deviation, of pixels in the range 0 to 1, are applied within the function for
        uint8 images, and before it for float ones.
        """
        metadata = self.metadata
        shape = metadata.preprocessing.shape
        return {
            "description": f"{models.describe(metadata.model)}, classifier {self.classifier}",
            "model": metadata.model,
            "classifier": self.classifier,
            "class_names": [display_name(name) for name in metadata.class_names],
            "preprocessing": asdict(metadata.preprocessing),
            "input": {
                "name": "images",
                "kind": "pixels from 0 to 255" if self.input == "uint8" else "normalised images",
                "dtype": jnp.dtype(self.dtype).name,
                "shape": ["batch", *shape],
            },
            "output": {
                "name": self.output,
                "kind": self.output,
                "dtype": "float32",
                "shape": ["batch", len(metadata.class_names)],
            },
            "versions": {"dks_jax": dks_jax.__version__, "jax": jax.__version__},
        }
