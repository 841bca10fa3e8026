"""The training checkpoint that the released DKS code writes: taken over, trained further, handed back."""

import convert_pytorch
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from PIL import Image

from dks_jax import train
from dks_jax.data.augmentation import normalise
from dks_jax.data.images import ImageData, Split
from dks_jax.data.sources import cifar
from dks_jax.models import load_config
from dks_jax.training import experiment
from dks_jax.weights.loading import load_network
from support import torch_reference as reference
from support.comparison import as_numpy, assert_agree
from support.runs import CONFIGS, records

MEAN = tuple(value / 255 for value in (125.3, 123.0, 113.9))
STD = tuple(value / 255 for value in (63.0, 62.1, 66.7))
NUM_CLASSES, EPOCH = 10, 59


def batches(count, seed, dtype):
    random = np.random.default_rng(seed)
    for _ in range(count):
        pixels = random.integers(0, 256, (8, 32, 32, 3), np.uint8)
        labels = torch.tensor(random.integers(0, NUM_CLASSES, 8))
        yield pixels, reference.normalise(pixels, MEAN, STD, dtype), labels


def step(network, optimizer, images, labels):
    terms = reference.loss_terms(network(images), labels, 1e-8)
    optimizer.zero_grad()
    reference.total_loss(terms, reference.DKS_PAIRS).backward()
    optimizer.step()


def sgd(network, learning_rate=0.1):
    """The one group of parameters of the released code, in the order of its dictionary."""
    named = dict(network.named_parameters())
    ordered = [named[name] for name in reference.released_order(network.state_dict()) if name in named]
    return torch.optim.SGD(ordered, learning_rate, momentum=0.9, weight_decay=5e-4)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(file, network, optimizer): a WRN-16-1 after a few steps, as the released code saves it."""
    torch.manual_seed(0)
    network = reference.WideResNet(16, 1, NUM_CLASSES)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1 if parameter.ndim > 1 else 0.3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.2, 1.0)
    optimizer = sgd(network)
    for _, images, labels in batches(3, 1, torch.float32):
        step(network, optimizer, images, labels)
    state = network.state_dict()
    content = {
        "params": {name: state[name] for name in reference.released_order(state)},
        "epoch": EPOCH,
        "optimizer": optimizer.state_dict(),
    }
    file = tmp_path_factory.mktemp("released") / "model.pt7"
    torch.save(content, file)
    return file, network, optimizer


@pytest.fixture(scope="module")
def converted(released):
    folder = released[0].parent / "weights"
    assert convert_pytorch.main(["import", f"--torch={released[0]}", f"--weights={folder}"]) == 0
    return folder


def test_the_logits_of_all_three_classifiers_agree(released, converted):
    _, network, _ = released
    ours, metadata = load_network(converted)
    assert metadata.model == {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0}
    network.eval()
    for pixels, images, _ in batches(2, 2, torch.float32):
        with torch.no_grad():
            theirs = torch.stack(network(images)).numpy()
        logits = np.asarray(ours(normalise(jnp.asarray(pixels), MEAN, STD)))
        difference = np.abs(logits - theirs).max() / np.abs(theirs).max()
        print(f"largest difference {difference:.1e}")
        assert difference < 1e-5
    network.train()


def test_it_comes_back_bit_for_bit(released, converted, tmp_path):
    before = torch.load(released[0], weights_only=True)
    assert convert_pytorch.main(["export", f"--torch={tmp_path / 'b.pt7'}", f"--weights={converted}"]) == 0
    after = torch.load(tmp_path / "b.pt7", weights_only=True)
    assert list(before["params"]) == list(after["params"])
    for name, tensor in before["params"].items():
        assert tensor.detach().numpy().tobytes() == after["params"][name].numpy().tobytes()
    assert after["epoch"] == EPOCH
    assert before["optimizer"]["param_groups"] == after["optimizer"]["param_groups"]
    for i, state in before["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], after["optimizer"]["state"][i]["momentum_buffer"])
    # The optimizer of the released code takes it.
    sgd(released[1]).load_state_dict(after["optimizer"])


def config(weights, drop_epochs):
    fields = {"data.padding": "0", "data.flip": "False", "data.batch_size": "8"}
    fields |= {"model.depth": "16", "model.width": "1", "optimizer.drop_epochs": drop_epochs}
    fields |= {"init_weights": str(weights), "init_optimizer": "True"}
    return load_config(str(CONFIGS / "cifar10_wrn.py"), fields)


@pytest.mark.slow
def test_further_steps_are_those_of_pytorch(released, converted, monkeypatch, x64):
    """In float64: five steps, and five after the next drop, where the released code makes a new optimizer."""
    file, _, _ = released
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (40, 32, 32, 3), np.uint8)
    labels = random.integers(0, NUM_CLASSES, 40).astype(np.int32)
    split = Split(images, labels)
    monkeypatch.setattr(cifar, "load", lambda *_: ImageData(split, split, tuple("abcdefghij")))
    ours = experiment.prepare(config(converted, drop_epochs="(61,)"), resumed=False)
    assert ours.first_epoch == EPOCH
    state = ours.steps.initial_state(EPOCH * ours.steps.train_feed.steps_per_epoch, ours.momentum)
    wide = lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
    state = jax.tree.map(wide, state)
    feed = ours.steps.train_feed
    feed.preparation = feed.preparation._replace(dtype=jnp.float64)
    network, theirs = resumed(file)
    for epoch in (EPOCH, EPOCH + 1):
        if epoch == EPOCH + 1:
            theirs = sgd(network, 0.1 * 0.2)
        for chunk in feed.chunks(epoch):
            first = chunk.first * 8
            chosen = np.asarray(chunk.arrays["order"])[first : first + chunk.batch_size]
            state, _ = ours.steps.train(state, chunk)
            prepared = reference.normalise(images[chosen], MEAN, STD, torch.float64)
            step(network, theirs, prepared, torch.tensor(labels[chosen]).long())
        assert int(state.step) == 5 * (epoch + 1)
        arrays = {name: tensor.detach().numpy() for name, tensor in reference.arrays_of(network).items()}
        assert_agree(as_numpy(state.params | state.batch_stats), reference.from_released(arrays), 1e-8)
        momentum = {name: value.numpy() for name, value in reference.momentum_of(network, theirs).items()}
        ours_momentum = optax.tree_utils.tree_get(state.opt_state, "momentum")
        assert_agree(as_numpy(ours_momentum), reference.from_released(momentum), 1e-8)


def resumed(file):
    """The network and the optimizer of a checkpoint, in float64, as the released code resumes them."""
    content = torch.load(file, weights_only=True)
    network = reference.WideResNet(16, 1, NUM_CLASSES).double()
    reference.load_arrays(network, {k: v.detach().double().numpy() for k, v in content["params"].items()})
    optimizer = sgd(network)
    optimizer.load_state_dict(content["optimizer"])
    return network.train(), optimizer


def ten_classes(folder):
    """A folder of ten classes with one image of each in both splits."""
    random = np.random.default_rng(0)
    for path in (folder / split / f"{label}" / "1.png" for split in ("train", "test") for label in range(10)):
        path.parent.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return folder


def train_from(weights, folder, *more):
    command = [f"--config={CONFIGS / 'cifar10_wrn.py'}", "--config.model.depth=16", "--config.model.width=1"]
    command += ["--config.data.source=folder", f"--config.data.root={ten_classes(folder / 'images')}"]
    command += [
        "--config.data.batch_size=10",
        f"--config.init_weights={weights}",
        f"--workdir={folder / 'run'}",
    ]
    return train.main([*command, "--config.init_optimizer=True", *more])


@pytest.mark.slow
def test_the_command_line_goes_on_at_the_epoch_of_the_file_itself(released, tmp_path, capsys):
    assert train_from(released[0], tmp_path, "--config.epochs=60") == 0
    assert str(released[0]) in capsys.readouterr().out
    train_line, test_line = records(tmp_path / "run")
    for line in (train_line, test_line):
        assert (line["epoch"], line["learning_rate"]) == (60, pytest.approx(0.02))


def test_going_on_needs_the_epoch_and_the_momentum_of_the_same_network(released, converted, tmp_path, capsys):
    def refused(weights, *more):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        assert train_from(weights, folder, *more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not (folder / "run").exists()
        return line

    assert "`epochs`" in (line := refused(converted, "--config.epochs=59"))
    assert "59" in line
    content = torch.load(released[0], weights_only=True)
    torch.save({"params": content["params"], "epoch": 3}, tmp_path / "no_momentum.pt7")
    torch.save({"params": content["params"]}, tmp_path / "no_epoch.pt7")
    assert "no_momentum.pt7" in (line := refused(tmp_path / "no_momentum.pt7"))
    assert "`init_optimizer`" in line
    assert "`init_optimizer`" in refused(tmp_path / "no_epoch.pt7")
    assert "`init_optimizer`" in refused(converted, "--config.method=baseline")
    assert "`init_weights`" in refused("")
