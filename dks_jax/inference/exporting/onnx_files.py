"""ONNX files, which jax2onnx writes and onnxruntime, among others, runs.

jax2onnx, onnx and onnxruntime are imported only here, and inside functions, since they are optional.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jax import export

from dks_jax import models
from dks_jax.inference.exporting.classifier import Exported
from dks_jax.runtime.errors import InputError, first_line, printable


def write(file: Path, exported: Exported) -> None:
    """Writes a model with the description of the classifier in its metadata_props, each value a JSON.

    Raises:
      InputError: jax2onnx knows no form of an operation of the network.
    """
    with _quiet():
        from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports]
        from onnx import helper  # pyright: ignore[reportMissingImports]

        try:
            model: Any = to_onnx(
                exported.function(),
                [exported.images(*export.symbolic_shape("batch"))],
                model_name=exported.metadata.model["name"],
                input_names=["images"],
                output_names=[exported.output],
            )
        except NotImplementedError as error:
            raise InputError(
                f"jax2onnx cannot express {models.describe(exported.metadata.model)} as ONNX "
                f"({printable(first_line(error), 150)}); export it as .stablehlo."
            ) from error
    description = exported.description()
    model.doc_string = description["description"]
    helper.set_model_props(model, {name: json.dumps(value) for name, value in description.items()})
    file.write_bytes(model.SerializeToString())


def read(file: Path) -> Callable[..., Any]:
    """The function in a file, as onnxruntime computes it on the CPU."""
    from onnxruntime import InferenceSession  # pyright: ignore[reportMissingImports]

    session = InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences jax2onnx, which logs the traceback of each of its plugins that does not suit this JAX."""
    logger = logging.getLogger("jax2onnx")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
