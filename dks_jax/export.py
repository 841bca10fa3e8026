"""Exports a trained network as one file that runs without this library.

    python -m dks_jax.export --weights PATH --output FILE [--classifier NAME] [--input uint8|float]
        [--output_kind logits|probabilities] [--check IMAGE ...]

The ending of FILE says what it is: .stablehlo, a program of jax.export for CPUs, CUDA GPUs and TPUs, with a
description in FILE.json; .onnx, with the description in its metadata; .safetensors or .pth, the weights of
the plain backbone as PyTorch names them. The first two take `pip install 'dks-jax[export]'`.

The program takes uint8 images [batch, height, width, channel] of the network's size, for a batch of any size,
and gives float32 logits [batch, class].

Before FILE appears it is read back and run beside the network; if they disagree, nothing is written.

The exit status is 0, 2 for wrong input, 130 after Ctrl-C, 141 if nobody reads the standard output.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dks_jax.runtime import signals

if __name__ == "__main__":
    signals.imports_begin()

from dks_jax.command_line import Parser, run
from dks_jax.inference import exporting, prediction
from dks_jax.runtime import compilation
from dks_jax.weights import load_weights, require_head


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status, which the docstring of the module explains."""
    return run(lambda: _export(parse(sys.argv[1:] if argv is None else argv)))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command line.

    Raises:
      InputError: a flag is wrong.
    """
    parser = Parser("python -m dks_jax.export", description=__doc__, allow_abbrev=False)
    parser.add_weights()
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--classifier", default="main", metavar="NAME", help="the classifier, e.g. branch1 (default: main)"
    )
    parser.add_argument(
        "--input",
        choices=exporting.INPUTS,
        default="uint8",
        help="pixels, or images that are normalised already (default: uint8)",
    )
    parser.add_argument("--output_kind", choices=exporting.OUTPUTS, default="logits", help="default: logits")
    parser.add_argument(
        "--check",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="image files, or folders of them, on which the file is checked (default: random images)",
    )
    return parser.parse_args(argv)


def _export(arguments: argparse.Namespace) -> None:
    compilation.enable_cache()
    file, path = arguments.output.expanduser(), Path(arguments.weights)
    exporting.require_exportable(file)
    paths = prediction.find_images(arguments.check)
    weights = load_weights(path)
    require_head(weights, path)
    exported = exporting.Exported(weights, arguments.classifier, arguments.input, arguments.output_kind)
    pixels = exporting.read_images(paths, weights.metadata.view)
    files, agreement = exporting.export(exported, file, pixels)
    for line in weights.remarks:
        print(line, file=sys.stderr)
    print(f"{exported.description()['description']}, {len(weights.metadata.class_names)} classes")
    print(prediction.describe(weights.metadata.preprocessing))
    kind = "given" if paths else "random"
    print(
        f"read back and run on {agreement.num_images} {kind} images in batches of "
        f"{' and '.join(map(str, agreement.batches))}: the largest difference from the network is "
        f"{agreement.difference:.1e} of the largest output"
    )
    print(f"written: {', '.join(map(str, files))}", flush=True)


if __name__ == "__main__":
    signals.imports_end()
    sys.exit(main())
