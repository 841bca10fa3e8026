"""Networks that images leave early: against the whole network, what is not computed, and the command."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dks_jax import Branch, BranchSpec, DeeplySupervised, early_exit, models, predict, train
from dks_jax.inference import evaluation
from dks_jax.inference.exits import Confidence, StagedNetwork, halves, where_left
from dks_jax.inference.exits.regrouping import Pass
from dks_jax.inference.exits.rules import confidences
from dks_jax.models import Preprocessing, load_config
from dks_jax.nn import get_arrays
from dks_jax.weights import Metadata, Weights, load_network, save_weights
from support.leaving import NEVER, assert_as_the_whole, on
from support.networks import wide_resnet
from support.runs import CONFIGS, DIGITS, user_error
from support.tiny_network import save_tiny, tiny_network

SMALL = [DIGITS, "--config.data.test_per_class=4", "--config.data.batch_size=8"]


class ByTable:
    """A rule by which image i, whose logits are i, leaves at the classifier left[i]."""

    def __init__(self, left, exits):
        self.left, self.exits = np.array(left), tuple(range(exits))

    def leaves(self, seen):
        assert np.all(seen == seen[:1])
        return self.left[seen[-1, :, 0].astype(int)] == len(seen) - 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 9))
def test_images_are_regrouped_into_as_few_batches_as_can_be(left, size):
    rule, calls = ByTable(left, 3), np.zeros(4, int)

    def program(index):
        def run(features, batch_size):
            assert len(features) == batch_size == size
            calls[index] += 1
            return features, features[:, None]

        return run

    own = Pass(
        [program(index) for index in range(4)],
        lambda here, there, rows: np.concatenate([here, there])[rows],
        range(4),
        rule,
        total=len(left),
        progress=(progress := []).append,
    )
    for first in range(0, len(left), size):
        ids = np.arange(first, first + size)
        own.add(np.where(ids < len(left), ids, -1).astype(np.float32), first, size)
    found = own.finish()
    assert found.logits[:, 0].tolist() == list(range(len(left)))
    assert found.classifier.tolist() == left
    assert sum(progress) == len(left)
    reached = [sum(where >= index for where in left) for index in range(4)]
    assert calls.tolist() == [-(-count // size) for count in reached]


def test_logits_have_the_bits_of_the_whole_network_and_order_stays():
    network = tiny_network(10)
    network.eval()
    assert_as_the_whole(network, 14, 4)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_logits_of_a_wide_resnet_have_the_bits_of_the_whole_network(batch_size):
    network = wide_resnet(16, 1, 10, branches=((0, (1, 1), (16, 32)), (1, (1,), (32,))))
    network.eval()
    assert_as_the_whole(network, 70, batch_size)


class Counted(nnx.Module):
    """A layer that counts how often it is computed; a head has the mean over all pixels."""

    def __init__(self, name, counts, rngs):
        self.name, self.count = name, lambda: counts.append(name)
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        jax.debug.callback(self.count)
        return self.linear(x.mean(axis=(1, 2)) if "head" in self.name else x)


def test_nothing_behind_an_exit_is_computed():
    counts, rngs = [], nnx.Rngs(0)

    def part(name):
        return Counted(name, counts, rngs)

    branches = [Branch(0, [part("own")], part("head 1")), Branch(1, [], part("head 2"))]
    network = DeeplySupervised(part("stem"), [part("0"), part("1"), part("2")], part("head"), branches)
    network.eval()
    feed, devices, _ = on(network, 6, 2, channels=4)
    for thresholds, expected in (
        ((0.0, 0.5), ["stem", "0", "own", "head 1"]),
        ((NEVER, 0.0), ["stem", "0", "1", "head 2"]),
        ((NEVER, NEVER), ["stem", "0", "1", "2", "head"]),
    ):
        rule = Confidence((1.0, 1.0), thresholds)
        jax.effects_barrier()
        counts.clear()
        StagedNetwork(network, rule.exits, feed, devices).run(rule)
        jax.effects_barrier()
        assert sorted(counts) == sorted(3 * expected)


def save_slim(folder, seed=0):
    """Writes the weights of a fresh tiny network whose branches are heads alone."""
    model = {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0}
    specs = (BranchSpec(0, (), ()), BranchSpec(1, (), ()))
    network = models.build(model, num_classes=10, channels=1, branches=specs, seed=seed)
    preprocessing = Preprocessing("squash", 8, 8, 1, (0.305,), (0.376,))
    metadata = Metadata(model, specs, tuple(map(str, range(10))), preprocessing)
    save_weights(folder, Weights(get_arrays(network), {}, metadata))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, tiny_model):
    """Weights of a fresh network with two slim branches, and an operating point of 0.9 of its MACs."""
    folder = tmp_path_factory.mktemp("exits")
    save_slim(folder / "weights")
    files = [f"--output={folder / 'exit.json'}", f"--curve={folder / 'curve.png'}"]
    assert early_exit.main([*SMALL, f"--weights={folder / 'weights'}", "--cost=0.9", *files]) == 0
    return folder


def test_the_command_reports_on_the_half_that_it_does_not_fit_on(fitted, tiny_model, capsys):
    point = json.loads((fitted / "exit.json").read_text())
    assert (fitted / "curve.png").read_bytes().startswith(b"\x89PNG")
    config = load_config(DIGITS.removeprefix("--config="), {"data.test_per_class": "4"})
    prepared = evaluation.prepare(config, str(fitted / "weights"))
    logits = evaluation.evaluate(prepared, keep_logits=True).logits
    labels = prepared.held_out.split.labels
    rule = Confidence(tuple(point["temperatures"].values()), thresholds_of(point))
    for half, part in zip(halves(labels), ("fitted", "reported"), strict=True):
        left = where_left(rule, logits[:, half])
        own = point[part]
        assert own["num_examples"] == len(half) == 20
        assert list(own["shares"].values()) == [np.mean(left == index) for index in range(3)]
        predicted = logits[left, half].argmax(axis=-1)
        assert own["error"] == pytest.approx(100 * np.mean(predicted != labels[half]))
    assert point["fitted"]["cost"] <= 0.9
    assert point["staying"]["cost"] == 1
    # The second branch forks after the last stage, so that leaving there saves nothing.
    (remark,) = point["remarks"]
    assert "branch2" in remark
    assert "branch1" not in remark
    reported = halves(labels).reported
    alone = 100 * np.mean(logits[:, reported].argmax(axis=-1) != labels[reported], axis=1)
    assert list(point["errors"].values()) == pytest.approx(alone)
    for part in ("reported", "staying"):
        assert {size for size, own in point[part]["seconds_per_image"].items() if own["median"] > 0} == {
            "1",
            "32",
        }


def thresholds_of(point):
    return tuple(NEVER if value is None else value for value in point["thresholds"].values())


def test_patience_leaves_where_it_says(fitted, tiny_model, tmp_path, capsys):
    file = tmp_path / "patience.json"
    arguments = [*SMALL, f"--weights={fitted / 'weights'}", f"--output={file}"]
    assert early_exit.main([*arguments, "--patience=1"]) == 0
    point = json.loads(file.read_text())
    assert point["patience"] == 1
    assert point["reported"]["shares"] == {"branch1": 1, "branch2": 0, "main": 0}
    assert point["reported"]["error"] == point["errors"]["branch1"]


def test_predictions_are_those_of_the_classifier_at_which_an_image_left(fitted, tiny_model, tmp_path, capsys):
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for index, path in enumerate(paths):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(path)
    network, _ = load_network(fitted / "weights")
    images = np.stack([np.asarray(Image.open(path), np.float32) for path in paths])[..., None]
    logits = np.asarray(network((images / 255 - 0.305) / 0.376))
    sure = confidences(logits[0], 1.5)
    exit_ = json.loads((fitted / "exit.json").read_text())
    exit_ |= {
        "thresholds": {"branch1": float(np.median(sure) - 1e-5), "branch2": None},
        "temperatures": {"branch1": 1.5, "branch2": 1.0},
    }
    (tmp_path / "exit.json").write_text(json.dumps(exit_))
    arguments = [f"--weights={fitted / 'weights'}", f"--exit={tmp_path / 'exit.json'}", *map(str, paths)]
    assert predict.main(["--json", *arguments]) == 0
    described = json.loads(capsys.readouterr().out)
    names = ["branch1" if own >= np.median(sure) else "main" for own in sure]
    assert [own["classifier"] for own in described] == names
    assert set(names) == {"branch1", "main"}
    for own, name, index in zip(described, names, range(5), strict=True):
        assert own["image"] == str(paths[index])
        expected = logits[network.names.index(name), index]
        assert own["predictions"][0]["label"] == expected.argmax()
        probability = np.exp(expected.max()) / np.exp(expected).sum()
        assert own["predictions"][0]["probability"] == pytest.approx(probability, rel=1e-4)
    assert predict.main(arguments) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[-2] == "classifier"
    assert [row.split()[-2] for row in rows[::5]] == names


WRONG = {
    "no branches": (["--weights=plain"], "plain"),
    "a cost of more than staying": (["--cost=1.5"], "--cost"),
    "a cost that is too low to be met": (["--cost=0.001"], "--cost"),
    "no number": (["--cost=nan"], "--cost"),
    "a loss below 0": (["--loss=-1"], "--loss"),
    "more patience than branches": (["--patience=3"], "--patience"),
    "two wishes": (["--cost=0.5", "--loss=1"], "--loss"),
    "one file twice": (["--output=a", "--curve=a"], "--curve"),
    "a folder that is absent": (["--output=nowhere/a"], "--output"),
    "no run and no config": (["--config"], "--config"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.usefixtures("tiny_model")
def test_a_wrong_wish_is_named_and_leaves_nothing(wrong, fitted, tmp_path, monkeypatch, capsys):
    arguments, named = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "plain", branches=False)
    before = sorted(tmp_path.rglob("*"))
    own = SMALL if arguments != ["--config"] else []
    arguments = [f"--weights={fitted / 'weights'}", *(arguments if own else []), f"--output={tmp_path / 'o'}"]
    if any("--output" in argument for argument in arguments[:-1]):
        arguments.pop()
    assert early_exit.main([*own, *arguments]) == 2
    assert named in user_error(capsys)
    assert sorted(tmp_path.rglob("*")) == before


def damage(folder, point, how):
    """Weights and an operating point that do not fit each other, or none."""
    if how == "weights without branches":
        save_tiny(folder / "weights", branches=False)
    else:
        save_slim(folder / "weights", seed=int(how == "other weights"))
    if how == "a field that is absent":
        del point["thresholds"]
    elif how == "a patience that is none":
        point["patience"] = 0
    (folder / "exit.json").write_text("{" if how == "no JSON" else json.dumps(point))
    if how == "no file":
        (folder / "exit.json").unlink()


@pytest.mark.parametrize(
    "how",
    [
        *("other weights", "weights without branches", "a field that is absent"),
        *("a patience that is none", "no JSON", "no file"),
    ],
)
def test_an_operating_point_of_other_weights_is_refused(how, fitted, tiny_model, tmp_path, capsys):
    damage(tmp_path, json.loads((fitted / "exit.json").read_text()), how)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "image.png")
    files = [f"--exit={tmp_path / 'exit.json'}", str(tmp_path / "image.png")]
    assert predict.main([f"--weights={tmp_path / 'weights'}", *files]) == 2
    assert str(tmp_path / "exit.json") in user_error(capsys, alone=True)


@pytest.mark.slow
def test_a_trained_network_keeps_its_accuracy_and_costs_less(tmp_path, capsys):
    run = tmp_path / "run"
    slim = "--config.model.branches=((0,(1,1),(16,32)),(1,(1,),(32,)))"
    assert train.main([f"--config={CONFIGS / 'digits_wrn.py'}", slim, f"--workdir={run}"]) == 0
    assert early_exit.main([f"--weights={run}", f"--output={tmp_path / 'exit.json'}"]) == 0
    print(capsys.readouterr().out)
    point = json.loads((tmp_path / "exit.json").read_text())
    reported, staying = point["reported"], point["staying"]
    assert reported["num_examples"] == 180
    assert reported["error"] <= staying["error"] + 100 / 180 + 1e-9
    assert reported["cost"] < 1
