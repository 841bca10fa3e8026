"""Networks as their owners would write them, and each written as stem, stages and head.

`python foreign_networks.py FILE` trains one for an epoch on all devices and saves the arrays.
"""

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dks_jax import Branch, DeeplySupervised, all_pairs, attach, objective
from dks_jax.data import Preparation
from dks_jax.data.feeds import Epochs, EvaluationFeed, TrainingFeed
from dks_jax.runtime.devices import Devices
from dks_jax.training.steps import Steps
from support.tiny_steps import NUM_CLASSES, images


class Block(nnx.Module):
    """Of a ResNet: two convolutions and a shortcut, which is projected where the shape changes."""

    def __init__(self, i, o, strides=1, *, rngs):
        self.conv1 = nnx.Conv(i, o, (3, 3), strides=strides, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(o, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.conv2 = nnx.Conv(o, o, (3, 3), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(o, momentum=0.9, rngs=rngs)
        self.project = nnx.Conv(i, o, (1, 1), strides=strides, rngs=rngs) if (i, strides) != (o, 1) else None

    def __call__(self, x):
        y = self.dropout(nnx.relu(self.bn1(self.conv1(x))))
        return nnx.relu(self.bn2(self.conv2(y)) + (x if self.project is None else self.project(x)))


class Layer(nnx.Module):
    def __init__(self, i, o, blocks, strides, *, rngs):
        rest = [Block(o, o, rngs=rngs) for _ in range(blocks - 1)]
        self.blocks = nnx.List([Block(i, o, strides, rngs=rngs), *rest])

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class ResNet(nnx.Module):
    def __init__(self, width, num_classes, channels=3, *, rngs):
        self.conv = nnx.Conv(channels, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.layer1 = Layer(width, width, 1, 1, rngs=rngs)
        self.layer2 = Layer(width, 2 * width, 2, 2, rngs=rngs)
        self.fc = nnx.Linear(2 * width, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn(self.conv(x)))
        x = self.layer2(self.layer1(x))
        return self.fc(jnp.mean(x, axis=(1, 2)))


class Encoder(nnx.Module):
    def __init__(self, width, *, rngs):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, dropout_rate=0.1, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.mlp = nnx.Sequential(
            nnx.Linear(width, 2 * width, rngs=rngs),
            nnx.gelu,
            nnx.Dropout(0.1, rngs=rngs),
            nnx.Linear(2 * width, width, rngs=rngs),
        )

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nnx.Module):
    def __init__(self, width, num_classes, channels=3, *, depth=2, rngs):
        # Two convolutions in place of one, by which a transformer learns from few images.
        self.patches = nnx.Sequential(
            nnx.Conv(channels, width // 2, (3, 3), rngs=rngs),
            nnx.relu,
            nnx.Conv(width // 2, width, (3, 3), strides=2, rngs=rngs),
        )
        self.token = nnx.Param(jnp.zeros((1, 1, width)))
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 17, width)))
        self.blocks = nnx.List([Encoder(width, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def embed(self, x):
        x = self.patches(x)
        x = x.reshape(len(x), -1, x.shape[-1])
        token = jnp.broadcast_to(self.token[...], (len(x), 1, x.shape[-1]))
        return jnp.concatenate([token, x], axis=1) + self.positions[...]

    def __call__(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def pool(x):
    return x.mean((1, 2))


def sequential(width, num_classes, channels=3, *, rngs):
    return nnx.Sequential(
        nnx.Conv(channels, width, (3, 3), rngs=rngs),
        nnx.BatchNorm(width, momentum=0.9, rngs=rngs),
        nnx.relu,
        nnx.Conv(width, 2 * width, (3, 3), strides=2, rngs=rngs),
        nnx.Dropout(0.1, rngs=rngs),
        nnx.relu,
        nnx.Conv(2 * width, 2 * width, (3, 3), rngs=rngs),
        nnx.BatchNorm(2 * width, momentum=0.9, rngs=rngs),
        nnx.relu,
        pool,
        nnx.Linear(2 * width, num_classes, rngs=rngs),
    )


class Part(nnx.Module):
    """Some modules and a function of them and the features."""

    def __init__(self, call: Callable, *modules):
        self.call = call
        self.modules = nnx.List(modules)

    def __call__(self, x):
        return self.call(*self.modules, x)


def pooled(width, num_classes, rngs):
    return nnx.Sequential(pool, nnx.Linear(width, num_classes, rngs=rngs))


def resnet(width, num_classes, channels, rngs):
    """(network, branches by submodule, the same as a `DeeplySupervised` of the same modules)."""
    net = ResNet(width, num_classes, channels, rngs=rngs)
    first, second = (pooled(i, num_classes, rngs) for i in (width, 2 * width))
    stem = Part(lambda conv, bn, x: nnx.relu(bn(conv(x))), net.conv, net.bn)
    stages = [net.layer1, *net.layer2.blocks]
    head = Part(lambda fc, x: fc(pool(x)), net.fc)
    whole = DeeplySupervised(stem, stages, head, [Branch(0, [], first), Branch(1, [], second)])
    # In another order than that of execution.
    return net, {"layer2.blocks.0": second, "layer1": first}, whole


def vit(width, num_classes, channels, rngs):
    net = ViT(width, num_classes, channels, rngs=rngs)
    norm, fc = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, num_classes, rngs=rngs)
    branch = Part(lambda norm, fc, x: fc(norm(x)[:, 0]), norm, fc)
    # The embedding is a method, which keeps the whole network in the stem; its other parts are the same ones.
    stem = Part(lambda net, x: net.embed(x), net)
    head = Part(lambda norm, fc, x: fc(norm(x)[:, 0]), net.norm, net.head)
    return net, {"blocks.0": branch}, DeeplySupervised(stem, net.blocks, head, [Branch(0, [], branch)])


def plain(width, num_classes, channels, rngs):
    net = sequential(width, num_classes, channels, rngs=rngs)
    layers, branch = list(net.layers), pooled(2 * width, num_classes, rngs)
    parts = (nnx.Sequential(*layers[i:j]) for i, j in ((0, 3), (3, 6), (6, 9), (9, 11)))
    stem, *stages, head = parts
    return (
        net,
        {"layers.4": nnx.Sequential(nnx.relu, branch)},
        DeeplySupervised(stem, stages, head, [Branch(0, [], branch)]),
    )


NETWORKS = {"resnet": resnet, "vit": vit, "sequential": plain}


def steps_of(network, dtype=jnp.float32) -> Steps:
    """26 images in training in batches of 8, without the last two."""
    devices, preparation = Devices(1), Preparation((0.5,) * 3, (0.25,) * 3, dtype=dtype)

    def loss(logits, labels, weights):
        teaches = all_pairs(len(network.names))
        return objective(logits, labels, teaches, names=network.names, weights=weights)

    return Steps(
        network,
        loss,
        optax.sgd(0.05, momentum=0.9),
        TrainingFeed(images(), preparation, Epochs(26, 8, drop_last=True, seed=0), devices),
        EvaluationFeed(images(), preparation, batch_size=8, devices=devices),
        seed=0,
        devices=devices,
    )


def train_epoch(network) -> dict[str, np.ndarray]:
    """The arrays by name and the losses after an epoch in float64."""
    steps = steps_of(network, jnp.float64)
    state = jax.tree.map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, steps.initial_state()
    )
    losses = []
    for chunk in steps.train_feed.chunks(0):
        state, history = steps.train(state, chunk)
        losses.append(history["loss"])
    return jax.device_get(state.params | state.batch_stats) | {"losses": np.concatenate(losses)}


def attached(name: str, width=8):
    network, branches, _ = NETWORKS[name](width, NUM_CLASSES, 3, nnx.Rngs(0))
    return attach(network, branches)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    np.savez(sys.argv[1], **train_epoch(attached("resnet")))
