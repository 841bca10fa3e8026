"""Writing of exported files, which appear complete and checked or not at all."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dks_jax.inference.exporting import onnx_files, stablehlo
from dks_jax.inference.exporting.checking import Agreement, check, logits
from dks_jax.inference.exporting.classifier import Exported
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.extras import require_package
from dks_jax.runtime.files import atomic_write, require_writable
from dks_jax.weights import Metadata, build_network, read_checkpoint, write_checkpoint


class Format(NamedTuple):
    """A format of exported files.

    write: writes what is exported to a file, whose name ends as the format demands.
    read: makes the function from images to outputs in a file.
    packages: the packages of the extra `export` that it takes.
    weights_alone: whether it holds weights without a function, so without kinds of input and output.
    described: whether the description is a file of its own beside it.
    """

    write: Callable[[Path, Exported], None]
    read: Callable[[Path, Metadata], Callable[..., Any]]
    packages: tuple[str, ...] = ()
    weights_alone: bool = False
    described: bool = False


def _write_checkpoint(file: Path, exported: Exported) -> None:
    write_checkpoint(file, exported.weights.without_branches())


def _read_checkpoint(file: Path, metadata: Metadata) -> Callable[..., Any]:
    network = build_network(read_checkpoint(file))
    return lambda pixels: logits(network, metadata, pixels)[0]


CHECKPOINT = Format(_write_checkpoint, _read_checkpoint, weights_alone=True)
FORMATS = {
    ".stablehlo": Format(
        stablehlo.write, lambda file, _: stablehlo.read(file), ("flatbuffers",), described=True
    ),
    ".onnx": Format(onnx_files.write, lambda file, _: onnx_files.read(file), ("jax2onnx", "onnxruntime")),
    ".safetensors": CHECKPOINT,
    ".pth": CHECKPOINT,
}


def require_exportable(file: Path) -> None:
    """Checks what can be checked before weights are loaded.

    Raises:
      InputError: the ending of the file is unknown, a package is missing, or the file cannot be written.
    """
    if file.suffix not in FORMATS:
        *most, last = FORMATS
        raise InputError(
            f"`--output` must name a file that ends in {', '.join(most)} or {last}; got {file.name}."
        )
    for path in _appearing(file):
        require_writable(path, "--output")
    for package in FORMATS[file.suffix].packages:
        require_package(package, f"Files that end in {file.suffix}", "export")


def export(exported: Exported, file: Path, pixels: np.ndarray) -> tuple[list[Path], Agreement]:
    """Writes an exported classifier to a file, once it is read back and agrees with the network.

    Args:
      exported: what to export.
      file: path of the file, whose ending says which format it has; beside .stablehlo the description is
        written to FILE.json.
      pixels: uint8 [image, height, width, channel], the images on which both are run.

    Returns:
      The files that were written, and how well they agree with the network.

    Raises:
      InputError: as for `require_exportable`; the format cannot hold the classifier; or the file computes
        something else, and then nothing is left of it.
    """
    require_exportable(file)
    own = FORMATS[file.suffix]
    kinds = exported.classifier, exported.input, exported.output
    if own.weights_alone and kinds != ("main", "uint8", "logits"):
        raise InputError(
            f"`--classifier`, `--input` and `--output_kind` must be left out for {file.suffix}, which holds "
            f"the weights of the plain backbone alone; got {', '.join(kinds)}."
        )
    files = _appearing(file)
    with _put_back(files[1:]), atomic_write(file) as partial:
        # The formats go by the ending.
        whole = partial.with_name(partial.name + file.suffix)
        own.write(whole, exported)
        agreement = check(own.read(whole, exported.metadata), exported, pixels)
        for beside in files[1:]:
            with atomic_write(beside) as description:
                description.write_text(json.dumps(exported.description(), indent=2) + "\n")
        whole.replace(partial)
    return files, agreement


def _appearing(file: Path) -> list[Path]:
    """The file and, where the format does not hold its description, that beside it."""
    beside = [file.with_name(file.name + ".json")] if FORMATS[file.suffix].described else []
    return [file, *beside]


@contextmanager
def _put_back(paths: list[Path]) -> Iterator[None]:
    """A context manager that leaves small files as they were if the block fails."""
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
        raise
