"""Measures the mean and the standard deviation of training images, and finds images that cannot be read.

    python tools/measure_images.py --config configs/images.py --config.data.root=ROOT

prints them as flags for `python -m dks_jax.train`. The images are resized as `data.preprocessing` says, and
not augmented. All images that cannot be read are found in this one pass.
"""

import sys
from collections.abc import Sequence

from dks_jax import data
from dks_jax.command_line import ConfigParser, run
from dks_jax.data import statistics

FIELDS = (
    *("data.source", "data.name", "data.root", "data.train_split"),
    *("data.image_size", "data.channels", "data.preprocessing", "data.crop_ratio", "data.interpolation"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 for wrong input, 130 after Ctrl-C."""
    return run(lambda: _measure(argv))


def _measure(argv: Sequence[str] | None) -> None:
    parser = ConfigParser("python tools/measure_images.py", __doc__, FIELDS)
    _, config = parser.parse_with_config(sys.argv[1:] if argv is None else argv)
    fields = config.data
    source = data.source(fields.source)
    # Whether images are measured does not depend on how they are trained on.
    streamed = fields.streamed or not source.in_memory
    fields.update(streamed=streamed, train_per_class=0, test_per_class=0, mean=(), std=())
    data.check(fields)
    images = data.load(data.resolve(fields, training=True))
    mean, std = statistics.measure(images.train)
    print(
        f"{images.train.num_examples:,} training images in {len(images.class_names)} classes", file=sys.stderr
    )
    print(f"'--config.data.mean={mean}' '--config.data.std={std}'")


if __name__ == "__main__":
    sys.exit(main())
