"""Classifies image files: prints the five most likely classes of each, by the main classifier.

    python -m dks_jax.predict --weights PATH [--exit FILE.json] [--json] [--skip_unreadable] IMAGE...

An IMAGE is an image file, or a folder of which all images are classified. Images are preprocessed as the
weights require. With the operating point that `python -m dks_jax.early_exit` writes, images leave early, and
the classes are those of the classifier at which an image leaves.

The exit status is 0, 2 for wrong input, 130 after Ctrl-C, 141 if nobody reads the standard output.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dks_jax.runtime import signals

if __name__ == "__main__":
    signals.imports_begin()

from dks_jax.command_line import Parser, run
from dks_jax.inference import prediction
from dks_jax.inference.exits import operating_point
from dks_jax.runtime import compilation
from dks_jax.weights import build_network, load_weights, require_head


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status, which the docstring of the module explains."""
    return run(lambda: _predict(parse(sys.argv[1:] if argv is None else argv)))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command line.

    Raises:
      InputError: a flag is wrong.
    """
    parser = Parser("python -m dks_jax.predict", description=__doc__, allow_abbrev=False)
    parser.add_weights()
    parser.add_argument("--exit", metavar="FILE.json", help="operating point, to leave the network early")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--skip_unreadable",
        action="store_true",
        help="leave out images that cannot be decoded, and list them",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file, or folder of image files")
    return parser.parse_args(argv)


def _predict(arguments: argparse.Namespace) -> None:
    compilation.enable_cache()
    paths = prediction.find_images(arguments.images, say=partial(print, file=sys.stderr))
    path = Path(arguments.weights)
    weights = load_weights(path)
    require_head(weights, path)
    if arguments.exit is None:
        weights = weights.without_branches()
    network, metadata = build_network(weights), weights.metadata
    rule = None
    if arguments.exit is not None:
        rule = operating_point.read(Path(arguments.exit).expanduser(), network)
    for remark in weights.remarks:
        print(remark, file=sys.stderr)
    skip = arguments.skip_unreadable
    predictions = prediction.predict(network, metadata, paths, rule=rule, skip_unreadable=skip)
    for path, own in zip(paths, predictions, strict=True):
        if not own:
            print(f"skipped, since it cannot be decoded: {path}", file=sys.stderr)
    print(prediction.describe(metadata.preprocessing), file=sys.stderr)
    show = prediction.as_json if arguments.json else prediction.as_table
    print(show(paths, predictions), flush=True)


if __name__ == "__main__":
    signals.imports_end()
    sys.exit(main())
