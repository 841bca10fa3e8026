"""Evaluation against training's own figures, against images one at a time, and wrong inputs."""

import csv
import errno
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import top_k_accuracy_score

from dks_jax import evaluate
from dks_jax.data.sources import digits
from dks_jax.weights import load_network
from support.runs import CONFIGS, DIGITS, records, user_error
from support.tfds_files import example, noise, prepare
from support.tiny_network import save_tiny

pytestmark = pytest.mark.usefixtures("tiny_model")

# 20 held-out digits in batches of 8, 8 and 4.
SMALL = [DIGITS, "--config.data.test_per_class=2", "--config.data.batch_size=8"]


def on_folder(root, *fields):
    fields = ["source=folder", f"root={root}", "mean=(0.5,0.5,0.5)", "std=(0.25,0.25,0.25)", *fields]
    return [DIGITS, *(f"--config.data.{field}" for field in fields)]


def results(tmp_path, *arguments):
    """What evaluation writes, as (JSON, logits)."""
    output, logits = tmp_path / "results.json", tmp_path / "logits.npy"
    assert evaluate.main([*arguments, f"--output={output}", f"--logits={logits}"]) == 0
    return json.loads(output.read_text()), np.load(logits)


def predictions(tmp_path, *arguments):
    """The lines of the CSV that evaluation writes, as dictionaries, and its JSON."""
    file = tmp_path / "predictions.csv"
    result, _ = results(tmp_path, *arguments, f"--predictions={file}")
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        return list(csv.DictReader(lines)), result


def refused(tmp_path, capsys, *arguments, alone=False):
    """What an evaluation says that ends with status 2 and writes nothing."""
    before = sorted(tmp_path.rglob("*"))
    assert evaluate.main([*arguments]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    return user_error(capsys, alone=alone)


def warnings_of(capsys, *arguments):
    assert evaluate.main([*arguments]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]


def one_at_a_time(network, images, mean, std):
    """Logits [classifier, example, class] of uint8 images."""
    pixels = (np.asarray(images, np.float64) / 255 - mean) / std
    return np.concatenate([network(image[None].astype(np.float32)) for image in pixels], axis=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a network with two branches for digits, and the network."""
    folder = tmp_path_factory.mktemp("weights") / "weights"
    return folder, save_tiny(folder)


@pytest.fixture
def colour_weights(tmp_path):
    save_tiny(tmp_path / "colour", 2, channels=3, mean=0.5, std=0.25, class_names=["a", "b"], branches=())
    return tmp_path / "colour"


def test_it_agrees_with_the_test_error_that_training_has_logged(unbroken, tmp_path):
    result, _ = results(tmp_path, *SMALL, f"--weights={unbroken}")
    logged = records(unbroken)[-1]
    assert list(result["classifiers"]) == ["branch1", "branch2", "main"]
    assert result["top1_error"] == pytest.approx(logged["error"], rel=1e-12)
    assert result["nll"] == pytest.approx(logged["cross_entropy/main"], rel=1e-5)


def test_every_classifier_is_evaluated_and_each_image_counts_once(weights, tmp_path, capsys):
    folder, network = weights
    (tmp_path / "results.json").write_text("an earlier result")
    result, logits = results(tmp_path, *SMALL, f"--weights={folder}")
    test = digits.load().test
    kept = np.sort(np.concatenate([np.flatnonzero(test.labels == label)[:2] for label in range(10)]))
    expected = one_at_a_time(network, test.images[kept], 0.305, 0.376)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert list(result["classifiers"]) == ["branch1", "branch2", "main"]
    for own, of in zip(result["classifiers"].values(), expected, strict=True):
        for k, name in ((1, "top1_error"), (5, "top5_error")):
            accuracy = top_k_accuracy_score(test.labels[kept], of, k=k, labels=np.arange(10))
            assert own[name] == pytest.approx(100 * (1 - accuracy))
    assert result | result["classifiers"]["main"] == result
    assert result.pop("images_per_second") > 0
    expected = {
        "num_examples": 20,
        "skipped": [],
        "ece_bins": 15,
        "weights": str(folder),
        "model": {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0},
        "data": {"source": "digits", "root": "", "held_out": "test"},
        "assumed": ["labels are those of the data set by number, since the network has no class names"],
        "warnings": [],
        "config": DIGITS.removeprefix("--config="),
        "preprocessing": "squash",
        "image_size": 8,
        "mean": [0.305],
        "std": [0.376],
        "precision": "float32",
    }
    assert result | expected == result
    output = capsys.readouterr().out
    assert re.findall(r"^\| (\w+)", output, re.MULTILINE) == ["classifier", "branch1", "branch2", "main"]
    top1, top5 = result["top1_error"], result["top5_error"]
    assert output.endswith(f"[Error rate] Top-1: {top1:.4f}%, Top-5: {top5:.4f}%\n")


def test_the_predictions_of_single_images_give_the_same_errors(weights, tmp_path):
    lines, result = predictions(tmp_path, *SMALL, f"--weights={weights[0]}")
    logits = np.load(tmp_path / "logits.npy").astype(np.float64)
    assert [line["path"] for line in lines] == [f"held-out image {i}" for i in range(20)]
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    columns = {
        "branch1": "branch1_probability",
        "branch2": "branch2_probability",
        "prediction": "probability",
    }
    assert set(lines[0]) == {"path", "label", *columns, *columns.values()}
    for (column, of), own, name in zip(columns.items(), shares, result["classifiers"], strict=True):
        wrong = np.mean([line[column] != line["label"] for line in lines])
        assert 100 * float(wrong) == result["classifiers"][name]["top1_error"]
        np.testing.assert_allclose([float(line[of]) for line in lines], own.max(axis=-1), rtol=1e-6)
    assert [entry["class"] for entry in result["per_class"]] == [str(label) for label in range(10)]
    errors = [entry["top1_error"] * entry["images"] for entry in result["per_class"]]
    assert sum(errors) / 20 == pytest.approx(result["top1_error"])


def test_of_equal_logits_the_first_class_is_the_prediction_and_counts_in_the_error(tmp_path):
    save_tiny(tmp_path / "weights", **{"head.fc.kernel": np.zeros((8, 10), np.float32)})
    lines, result = predictions(tmp_path, *SMALL, f"--weights={tmp_path / 'weights'}")
    assert {line["prediction"] for line in lines} == {"0"}
    assert [float(line["probability"]) for line in lines] == pytest.approx([0.1] * 20)
    assert result["top1_error"] == 100 * float(np.mean([line["label"] != "0" for line in lines])) == 90


def test_any_name_of_a_class_and_of_a_file_survives_in_the_predictions(image_folder, tmp_path):
    names = ['a, "b"', "c\nd"]
    for old, new in zip("ab", names, strict=True):
        for split in ("train", "test"):
            (image_folder / split / old).rename(image_folder / split / new)
    files = [os.fsencode(f"test/{names[0]}/") + b"\xff,.png", os.fsencode(f"test/{names[1]}/1.png")]
    (image_folder / "test" / names[0] / "1.png").rename(image_folder / os.fsdecode(files[0]))
    save_tiny(tmp_path / "colour", 2, channels=3, mean=0.5, std=0.25, class_names=names)
    lines, _ = predictions(tmp_path, *on_folder(image_folder), f"--weights={tmp_path / 'colour'}")
    assert [line["label"] for line in lines] == names
    assert {line["prediction"] for line in lines} <= {*names}
    assert [os.fsencode(line["path"]) for line in lines] == files


def test_the_size_of_a_batch_changes_nothing_but_rounding(weights, tmp_path):
    arguments = [*SMALL, f"--weights={weights[0]}"]
    _, expected = results(tmp_path, *arguments)
    for batch_size in (7, 1000):
        _, logits = results(tmp_path, *arguments, f"--config.data.batch_size={batch_size}")
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    _, logits = results(tmp_path, *arguments, "--config.precision=bfloat16")
    assert logits.dtype == np.float32
    # bfloat16 keeps 8 bits.
    assert 0 < np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()


def test_a_folder_is_evaluated_in_the_order_of_its_paths(image_folder, colour_weights, tmp_path):
    random = np.random.default_rng(1)
    for name in ("a/0.png", "b/a/3.png", "b/0.png"):
        (image_folder / "test" / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(image_folder / "test" / name)
    arguments = [*on_folder(image_folder, "batch_size=2"), f"--weights={colour_weights}"]
    result, logits = results(tmp_path, *arguments)
    images = [
        np.asarray(Image.open(image_folder / "test" / name).resize((8, 8), Image.Resampling.BICUBIC))
        for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/a/3.png")
    ]
    network, _ = load_network(colour_weights)
    expected = one_at_a_time(network, images, 0.5, 0.25)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    wrong = np.argmax(expected[0], axis=-1) != [0, 0, 1, 1, 1]
    assert result["top1_error"] == pytest.approx(100 * wrong.mean())
    # With two classes the five likeliest ones say nothing.
    assert result["top5_error"] is None
    assert result["data"]["root"] == str(image_folder)


def test_a_training_config_evaluates_as_it_is(image_folder, colour_weights):
    arguments = [f"--config={CONFIGS / 'cifar10_small.py'}:baseline", f"--config.data.root={image_folder}"]
    arguments += ["--config.data.test_per_class=1", f"--weights={colour_weights}"]
    assert evaluate.main(arguments) == 0


def test_a_prepared_data_set_is_streamed_or_taken_in_part(tmp_path, capsys):
    save_tiny(tmp_path / "weights", 3, channels=3, size=6, mean=0.5, std=0.25)
    prepare(tmp_path, {"train": [example(0)], "test": [example(seed) for seed in range(9, 16)]})
    arguments = on_folder(tmp_path, "source=tfds", "name=tiny", "batch_size=4", "train_per_class=100")
    arguments += ["--config.data.image_size=6", f"--weights={tmp_path / 'weights'}"]
    result, streamed = results(tmp_path, *arguments)
    part, resident = results(tmp_path, *arguments, "--config.data.test_per_class=1")
    assert (result["num_examples"], part["num_examples"]) == (7, 3)
    network, _ = load_network(tmp_path / "weights")
    expected = one_at_a_time(network, [noise(seed) for seed in range(9, 16)], 0.5, 0.25)
    # tfds shuffles what it writes: an image is recognised by its logits.
    distances = np.abs(streamed[:, :, None] - expected[:, None]).max(axis=(0, 3))
    order = np.argmin(distances, axis=1)
    assert sorted(order) == list(range(7))
    assert distances.min(axis=1).max() < 1e-5
    labels = order % 3
    first = sorted(labels.tolist().index(label) for label in range(3))
    np.testing.assert_allclose(resident, streamed[:, first], rtol=1e-5, atol=1e-5)
    wrong = np.argmax(streamed[-1], axis=-1) != labels
    assert result["top1_error"] == pytest.approx(100 * wrong.mean())
    # Which images are of one class is known once all are decoded.
    capsys.readouterr()
    both = ["--config.data.test_per_class=1", "--skip_unreadable"]
    assert "`data.test_per_class`" in refused(tmp_path, capsys, *arguments, *both)


def test_unreadable_images_stop_it_or_are_left_out_and_listed(image_folder, colour_weights, tmp_path, capsys):
    arguments = [*on_folder(image_folder, "batch_size=1"), f"--weights={colour_weights}"]
    _, whole = results(tmp_path, *arguments)
    unreadable = [image_folder / "test" / name for name in ("a/0.png", "b/0.png")]
    for path in unreadable:
        path.write_bytes(b"no image")
    new = f"--output={tmp_path / 'new.json'}"
    assert str(unreadable[0]) in refused(tmp_path, capsys, *arguments, new)
    lines, _ = predictions(tmp_path, *arguments, "--skip_unreadable")
    assert [line["path"] for line in lines] == ["test/a/1.png", "test/b/1.png"]
    result, logits = results(tmp_path, *arguments, "--skip_unreadable")
    assert result["skipped"] == [str(path) for path in unreadable]
    assert result["num_examples"] == 2
    np.testing.assert_array_equal(logits, whole)
    output = capsys.readouterr().out
    assert all(str(path) in output for path in unreadable)
    for name in ("a/1.png", "b/1.png"):
        (image_folder / "test" / name).write_bytes(b"no image")
    assert "`--skip_unreadable`" in refused(tmp_path, capsys, *arguments, new, "--skip_unreadable")


def test_weights_must_know_all_classes_and_take_the_channels(
    weights, image_folder, colour_weights, tmp_path, capsys
):
    arguments = on_folder(image_folder)
    error = refused(tmp_path, capsys, *arguments, f"--weights={weights[0]}")
    assert "`data.mean`" in error
    colour = "--config.data.channels=3"
    error = refused(tmp_path, capsys, *arguments, colour, f"--weights={weights[0]}")
    assert "`--weights`" in error
    assert "channels" in error
    for split in ("train", "test"):
        shutil.copytree(image_folder / split / "a", image_folder / split / "c")
    error = refused(tmp_path, capsys, *arguments, f"--weights={colour_weights}")
    assert "none: c" in error
    for name in ("b", "c"):
        for split in ("train", "test"):
            shutil.rmtree(image_folder / split / name)
    assert evaluate.main([*arguments, f"--weights={colour_weights}"]) == 0


def test_another_network_and_another_preprocessing_are_warned_of(image_folder, colour_weights, capsys):
    arguments = [*on_folder(image_folder), f"--weights={colour_weights}"]
    assert warnings_of(capsys, *arguments) == []
    other = ["--config.model.width=2", "--config.data.std=(0.5,0.5,0.5)", "--config.data.image_size=16"]
    network, preprocessing = warnings_of(capsys, *arguments, *other)
    for warning, values in (
        (network, ["width 1", "width 2"]),
        (preprocessing, ["[8, 8]", "[16, 16]", "[0.25, 0.25, 0.25]", "[0.5, 0.5, 0.5]"]),
    ):
        assert all(value in warning for value in values), warning


def test_an_assumed_preprocessing_and_dropout_are_not_warned_of(weights, tmp_path, capsys):
    folder = shutil.copytree(weights[0], tmp_path / "weights")
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["preprocessing"] |= {"mean": [0.5], "assumed": True}
    metadata["model"] = {"dropout": 0.3, "width": 1, "depth": 16, "name": "wide_resnet"}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    assert warnings_of(capsys, *SMALL, f"--weights={folder}") == []


def test_weights_that_give_no_number_are_named_with_the_example(tmp_path, capsys):
    save_tiny(tmp_path / "weights", **{"head.fc.bias": np.full(10, np.nan, np.float32)})
    arguments = [*SMALL, f"--weights={tmp_path / 'weights'}", f"--logits={tmp_path / 'logits.npy'}"]
    assert "held-out image 0" in refused(tmp_path, capsys, *arguments)


WRONG = {
    "no weights": (["--weights=nowhere"], "nowhere"),
    "an absent folder": (["--output=nowhere/results.json"], "`--output`"),
    "a folder": (["--output=."], "`--output`"),
    "a device": (["--logits=/dev/null"], "`--logits`"),
    "no place to write": (["--logits=/proc/logits.npy"], "`--logits`"),
    "too long a name": ([f"--output={'x' * 300}"], "File name too long"),
    "one file for both": (["--output=x", "--logits=./x"], "`--logits`"),
    "one file for others": (["--predictions=x", "--logits=./x"], "`--logits`"),
    "predictions nowhere": (["--predictions=nowhere/x.csv"], "`--predictions`"),
    "precision": (["--config.precision=float64"], "`precision`"),
    "a flag of training": (["--workdir=x"], "--workdir=x"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_input_is_named_before_anything_is_evaluated(wrong, weights, tmp_path, monkeypatch, capsys):
    arguments, named = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    arguments = [*SMALL, f"--weights={weights[0]}", *arguments]
    assert named in refused(tmp_path, capsys, *arguments, alone=True)


def test_results_are_shown_where_a_file_cannot_be_written(weights, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert evaluate.main([*SMALL, f"--weights={weights[0]}", f"--logits={tmp_path / 'logits.npy'}"]) == 2
    captured = capsys.readouterr()
    assert "[Error rate] Top-1: " in captured.out
    assert captured.err.startswith("error: No space left on device")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_fields_that_have_an_effect(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    listed = re.findall(r"^  --config\.([\w.]+)=", capsys.readouterr().out, re.MULTILINE)
    of_data = "source name root train_split held_out image_size channels preprocessing mean std"
    of_data += " crop_ratio interpolation test_per_class batch_size"
    assert set(listed) == {"precision", "deterministic", *(f"data.{name}" for name in of_data.split())}


def test_a_run_is_evaluated_by_its_own_config(unbroken, tmp_path, capsys):
    result, _ = results(tmp_path, f"--weights={unbroken}")
    assert str(unbroken / "config.json") in capsys.readouterr().out
    assert result["top1_error"] == pytest.approx(records(unbroken)[-1]["error"], rel=1e-12)
    assert result["num_examples"] == 20
    assert result["config"] == str(unbroken / "config.json")
    more, _ = results(tmp_path, f"--weights={unbroken / 'weights'}", "--config.data.test_per_class=3")
    assert more["num_examples"] == 30


def test_without_a_run_a_config_is_needed(weights, tmp_path, capsys):
    assert "`--config`" in refused(tmp_path, capsys, f"--weights={weights[0]}", alone=True)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    assert "`--config`" in refused(tmp_path, capsys, f"--weights={run}", alone=True)
