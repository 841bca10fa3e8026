"""The compiled steps of a tiny network on random images, with crops, flips and dropout."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from dks_jax import all_pairs, objective
from dks_jax.data.feeds.interface import Epochs
from dks_jax.data.feeds.resident import EvaluationFeed, TrainingFeed
from dks_jax.data.feeds.streamed import StreamedTrainingFeed
from dks_jax.data.images import Split, StoredSplit
from dks_jax.data.preparation import Preparation
from dks_jax.models import Preprocessing
from dks_jax.nn import Functional, get_params
from dks_jax.supervision import distances_from_head
from dks_jax.training import mixing
from dks_jax.training.optimizers import lamb, scale_by_depth, sgd
from dks_jax.training.steps import Steps
from dks_jax.training.teachers import Teacher, Teachers
from dks_jax.training.training_loss import leave_out_pairs
from support.tiny_network import tiny_network

NUM_CLASSES = 4


def images(num=26, size=8, seed=0):
    random = np.random.default_rng(seed)
    return Split(
        random.integers(0, 256, (num, size, size, 3), np.uint8),
        random.integers(0, NUM_CLASSES, num).astype(np.int32),
    )


def setting(
    devices,
    *,
    dtype=jnp.float32,
    learning_rate=0.05,
    norm_groups=1,
    drop_last=False,
    streamed=False,
    regularised=False,
    ema_decay=0.0,
):
    """(steps, initial state).

    `regularised` has LAMB, layer decay, stochastic depth, dropout at heads, mixed images, smoothed labels,
    random pairs and a frozen teacher.
    """
    preparation = Preparation((0.5,) * 3, (0.25,) * 3, padding=2, flip=True, dtype=dtype)
    split, epochs = images(), Epochs(26, 8, drop_last, 3)
    if streamed:
        read = lambda index, rng: (split.images[index], int(split.labels[index]))  # noqa: E731
        stored = StoredSplit(split.num_examples, split.image_shape, 0, read)
        train = StreamedTrainingFeed(stored, preparation, epochs, devices)
    else:
        train = TrainingFeed(split, preparation, epochs, devices)
    rates = {"drop_path": 0.3, "head_dropout": 0.2} if regularised else {}
    network = tiny_network(NUM_CLASSES, norm_groups, **rates)
    optimizer = sgd(lambda step: learning_rate, weight_decay=5e-4)
    if regularised:
        distances = distances_from_head(network, get_params(network))
        optimizer = lamb(
            lambda step: learning_rate, weight_decay=0.1, clip_norm=1.0, decay_norm_and_bias=False
        )
        optimizer = optax.chain(optimizer, scale_by_depth(0.7, distances))
    fields = ConfigDict({"mixup": 0.3, "cutmix": 1.0, "probability": 0.9, "switch_probability": 0.5})
    mean, std = preparation.mean, preparation.std
    teacher = Teacher(
        Functional(tiny_network(NUM_CLASSES).drop_branches()),
        Preprocessing("squash", 8, 8, 3, mean, (0.5,) * 3),
        np.arange(NUM_CLASSES),
    )

    def taught(step):
        teaches = jnp.asarray(np.vstack([all_pairs(3), np.ones((1, 3))]))
        teaches = leave_out_pairs(teaches, jax.random.fold_in(jax.random.key(1), step))
        return {"teaches": teaches, "label_smoothing": 0.1}

    steps = Steps(
        network,
        partial(objective, teaches=all_pairs(3), epsilon=1e-8),
        optimizer,
        train,
        EvaluationFeed(images(seed=1), preparation, batch_size=8, devices=devices),
        seed=3,
        devices=devices,
        ema_decay=ema_decay,
        mix=mixing.from_config(fields, NUM_CLASSES) if regularised else None,
        loss_schedule=taught if regularised else None,
        teachers=Teachers([teacher], mean, std) if regularised else None,
    )
    return steps, initial_state(steps, dtype)


def initial_state(steps, dtype):
    """The state before the first step, in float64 where `dtype` is that."""
    state = steps.initial_state()
    if dtype == jnp.float64:
        state = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, state)
    return state


def run_epoch(steps, state, epoch=0):
    histories = []
    for chunk in steps.train_feed.chunks(epoch):
        state, history = steps.train(state, chunk)
        histories.append(history)
    return state, {name: np.concatenate([h[name] for h in histories]) for name in histories[0]}


def numbers(state):
    """The arrays of a state by name; copies, because training donates their buffers."""
    return {"/".join(map(str, path)): np.array(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}
