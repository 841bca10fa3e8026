"""Cell A of docs/evidence.md: MLPs on digits of which 40 % have a wrong label, all seeds of an arm at once.

    python tools/evidence_digits.py docs/evidence/digits.csv
    python tools/evidence_digits.py --standardised docs/evidence/digits_standardised.csv

Each line of the file is a finished run: arm, seed, and in % the test error of the main classifier after the
last epoch and at the best one, and its error on the training labels, right and wrong, after the last epoch.
"""

import csv
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dks_jax import command_line
from dks_jax.data.label_noise import choose, symmetric
from dks_jax.data.sources import digits
from dks_jax.nn import Functional
from dks_jax.runtime.files import atomic_write, require_writable
from dks_jax.supervision import Branch, DeeplySupervised
from dks_jax.synergy import TEACHES, objective
from dks_jax.training import optimizers, schedules

# Name of the teaching matrix and label smoothing; the first two have no branches.
ARMS = {
    "baseline": ("", 0.0),
    "label smoothing": ("", 0.1),
    "ds": ("no_pairs", 0.0),
    "dks": ("all_pairs", 0.0),
    "top_down": ("top_down", 0.0),
    "bottom_up": ("bottom_up", 0.0),
}
# Those of cell A, and of the cell with standardised pixels.
SEEDS, STANDARDISED_SEEDS = range(100, 130), range(200, 230)
NOISE, WIDTH, CLASSES = 0.4, 128, 10
EPOCHS, BATCH_SIZE, RATE, MOMENTUM, DECAY = 40, 64, 0.05, 0.9, 5e-4
HEADER = ("arm", "seed", "last", "best", "train")


class Layer(nnx.Module):
    """A linear layer and ReLU."""

    def __init__(self, num_in: int, num_out: int, rngs: nnx.Rngs):
        self.linear = nnx.Linear(num_in, num_out, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.linear(x))


def build(seed: int, *, branches: bool) -> DeeplySupervised:
    """Three layers, of which the first two have a branch if asked for."""
    rngs = nnx.Rngs(seed)
    layer, head = partial(Layer, rngs=rngs), partial(nnx.Linear, WIDTH, CLASSES, rngs=rngs)
    stages = [layer(64, WIDTH), layer(WIDTH, WIDTH), layer(WIDTH, WIDTH)]
    main, auxiliary = head(), []
    if branches:
        early = Branch(0, [layer(WIDTH, WIDTH), layer(WIDTH, WIDTH)], head())
        late = Branch(1, [layer(WIDTH, 2 * WIDTH)], nnx.Linear(2 * WIDTH, CLASSES, rngs=rngs))
        auxiliary = [early, late]
    return DeeplySupervised(nnx.Sequential(), stages, main, auxiliary)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    parser = command_line.Parser("python tools/evidence_digits.py", description=__doc__)
    parser.add_argument("--standardised", action="store_true", help="the cell with standardised pixels")
    parser.add_argument("output", type=Path, metavar="FILE.csv", help="where the runs are written")

    def action() -> None:
        arguments = parser.parse_args(argv)
        output, standardised = arguments.output, arguments.standardised
        seeds = STANDARDISED_SEEDS if standardised else SEEDS
        require_writable(output, "FILE.csv")
        rows = [row for arm in ARMS for row in run(arm, seeds, standardised=standardised)]
        with atomic_write(output) as partial_file, partial_file.open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows])

    return command_line.run(action)


def run(
    arm: str, seeds: Sequence[int], *, epochs: int = EPOCHS, standardised: bool = False
) -> list[tuple[Any, ...]]:
    """Trains an arm with every seed at once, without the partial batches; returns a row for each.

    Args:
      arm: a name in ARMS.
      seeds: seeds of the initial weights, of the order of the images and of the wrong labels.
      epochs: number of epochs.
      standardised: whether all pixels together have mean 0 and deviation 1, and are not from 0 to 1.
    """
    images: Any = digits.load()
    pixels, test = (
        split.images.reshape(len(split.labels), -1) / 255 for split in (images.train, images.test)
    )
    if standardised:
        mean, std = pixels.mean(), pixels.std()
        pixels, test = (pixels - mean) / std, (test - mean) / std
    every, true = np.arange(len(pixels)), images.train.labels
    labels = np.stack([_noisy(every, true, seed) for seed in seeds])
    network, params = _networks(arm, seeds)
    step, state = _step(arm, network, len(every) // BATCH_SIZE, epochs, params)

    @jax.jit
    def epoch(state, orders):
        batches = orders[:, : len(every) // BATCH_SIZE * BATCH_SIZE].reshape(len(seeds), -1, BATCH_SIZE)
        return jax.lax.scan(
            lambda state, index: (step(state, jnp.asarray(pixels)[index], _take(labels, index)), None),
            state,
            batches.swapaxes(0, 1),
        )[0]

    def errors(state, images, labels) -> np.ndarray:
        logits = jax.vmap(lambda p: network.eval(p, {}, images))(state[0])[:, -1]
        return np.asarray(100.0 * jnp.mean(jnp.argmax(logits, -1) != labels, axis=-1))

    tests = []
    for number in range(epochs):
        orders = np.stack([np.random.default_rng([seed, number]).permutation(len(every)) for seed in seeds])
        state = epoch(state, orders)
        tests.append(errors(state, jnp.asarray(test), images.test.labels))
    train = errors(state, jnp.asarray(pixels), labels)
    return [
        (arm, seed, *(round(float(value), 4) for value in (tests[-1][i], np.min(tests, axis=0)[i], train[i])))
        for i, seed in enumerate(seeds)
    ]


def _noisy(every: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    chosen = choose(NOISE, len(every), seed)
    return symmetric(chosen, len(every), CLASSES, seed)(every, labels)


def _take(labels: np.ndarray, index: jax.Array) -> jax.Array:
    return jnp.take_along_axis(jnp.asarray(labels), index, axis=1)


def _networks(arm: str, seeds: Sequence[int]) -> tuple[Functional, dict[str, jax.Array]]:
    """The network as functions, and the initial weights of all seeds, [seed, ...] by name."""
    own = [Functional(build(seed, branches=bool(ARMS[arm][0]))) for seed in seeds]
    return own[0], jax.tree.map(lambda *arrays: jnp.stack(arrays), *(functional.params for functional in own))


def _step(
    arm: str, network: Functional, steps_per_epoch: int, epochs: int, params: dict[str, jax.Array]
) -> tuple[Callable[..., Any], Any]:
    """A step of all seeds, from (state, images [seed, ...], labels [seed, batch]), and the first state."""
    name, smoothing = ARMS[arm]
    teaches = TEACHES[name](3) if name else np.zeros((1, 1))
    schedule = schedules.cosine_schedule(RATE, 0.0, epochs, steps_per_epoch)
    optimizer = optimizers.sgd(schedule, momentum=MOMENTUM, weight_decay=DECAY)

    def loss(params, images, labels):
        logits, _ = network.train(params, {}, images, jax.random.key(0))
        return objective(logits, labels, teaches, epsilon=1e-8, label_smoothing=smoothing)[0]

    def one(state, images, labels):
        params, opt_state = state
        updates, opt_state = optimizer.update(jax.grad(loss)(params, images, labels), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.vmap(one), (params, jax.vmap(optimizer.init)(params))


if __name__ == "__main__":
    sys.exit(main())
