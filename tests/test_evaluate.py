"""Evaluation against training's own figures, against images one at a time, and wrong inputs."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import top_k_accuracy_score

from dks_jax import evaluate, evaluation, evaluation_report
from dks_jax.data import digits
from dks_jax.data.images import Split
from dks_jax.data.preparation import Preparation
from dks_jax.data.resident import EvaluationFeed
from dks_jax.errors import InputError
from dks_jax.evaluation_metrics import Figures, require_finite_logits
from dks_jax.steps import Devices, Forward
from dks_jax.weights import load_network
from runs import CONFIGS, DIGITS, FOUR_DEVICES, records, run
from test_tfds_source import example, noise, prepare
from tiny_network import save_tiny, tiny_network

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


def fails(tmp_path, capsys, *arguments):
    """The sentence that it ends with; nothing is written."""
    before = sorted(tmp_path.rglob("*"))
    assert evaluate.main([*arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    return error


def one_at_a_time(network, images, mean, std):
    """Logits [classifier, example, class] of uint8 images."""
    pixels = (np.asarray(images, np.float64) / 255 - mean) / std
    return np.concatenate([network(image[None].astype(np.float32)) for image in pixels], axis=1)


def small_digits():
    test = digits.load().test
    kept = np.sort(np.concatenate([np.flatnonzero(test.labels == label)[:2] for label in range(10)]))
    return test.images[kept], test.labels[kept]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a network with two branches for digits, and the network."""
    folder = tmp_path_factory.mktemp("weights") / "weights"
    return folder, save_tiny(folder)


@pytest.fixture
def colour_weights(tmp_path):
    save_tiny(tmp_path / "colour", 2, channels=3, mean=0.5, std=0.25, class_names=["a", "b"], branches=False)
    return tmp_path / "colour"


def test_it_agrees_with_the_test_error_that_training_has_logged(tmp_path, capsys):
    quick = ["--config.epochs=1", "--config.method=baseline", "--config.data.drop_last=True"]
    assert run(tmp_path / "run", *quick) == 0
    capsys.readouterr()
    result, _ = results(tmp_path, *SMALL, f"--weights={tmp_path / 'run'}")
    logged = records(tmp_path / "run")[-1]
    assert result["top1_error"] == pytest.approx(logged["error"], rel=1e-12)
    assert list(result["classifiers"]) == ["main"]
    assert result["nll"] == pytest.approx(logged["cross_entropy/main"], rel=1e-5)
    assert f"after epoch 1, test error {logged['error']:.2f} %" in capsys.readouterr().out


def test_every_classifier_is_evaluated_and_each_image_counts_once(weights, tmp_path, capsys):
    folder, network = weights
    result, logits = results(tmp_path, *SMALL, f"--weights={folder}")
    images, labels = small_digits()
    expected = one_at_a_time(network, images, 0.305, 0.376)
    assert logits.dtype == np.float32
    assert logits.shape == (3, 20, 10)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert list(result["classifiers"]) == ["branch1", "branch2", "main"]
    assert result["num_examples"] == 20
    for own, of in zip(result["classifiers"].values(), expected, strict=True):
        for k, name in ((1, "top1_error"), (5, "top5_error")):
            accuracy = top_k_accuracy_score(labels, of, k=k, labels=np.arange(10))
            assert own[name] == pytest.approx(100 * (1 - accuracy))
    assert result | result["classifiers"]["main"] == result
    assert result["skipped"] == []
    assert (result["preprocessing"], result["image_size"], result["mean"]) == ("squash", 8, [0.305])
    assert (result["precision"], result["weights"], result["ece_bins"]) == ("float32", str(folder), 15)
    assert result["data"] == {"source": "digits", "root": ""}
    assert result["config"] == DIGITS.removeprefix("--config=")
    assert result["model"] == {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0}
    assert result["images_per_second"] > 0
    output = capsys.readouterr().out
    assert "warning" not in output
    assert "\n20 images, " in output
    top1, top5 = result["top1_error"], result["top5_error"]
    assert f"\n[Error rate] Top-1: {top1:.4f}%, Top-5: {top5:.4f}%\n" in output
    assert output.count("\n| branch") == 2


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_the_size_of_a_batch_changes_nothing_but_rounding(weights, tmp_path, batch_size):
    _, expected = results(tmp_path, *SMALL, f"--weights={weights[0]}")
    result, logits = results(
        tmp_path, *SMALL, f"--weights={weights[0]}", f"--config.data.batch_size={batch_size}"
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert result["num_examples"] == 20


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
from dks_jax import evaluate, models
from tiny_network import build_tiny
models.MODELS["wide_resnet"] = models.MODELS["wide_resnet"]._replace(build=build_tiny)
assert jax.device_count() == 4
sys.exit(evaluate.main(sys.argv[2:]))
"""


def test_four_devices_match_one(weights, tmp_path):
    _, expected = results(tmp_path, *SMALL, f"--weights={weights[0]}")
    file = tmp_path / "four.npy"
    # Batches of 6 become ones of 8.
    arguments = [*SMALL, f"--weights={weights[0]}", f"--logits={file}", "--config.data.batch_size=6"]
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), *arguments]
    subprocess.run(command, env=os.environ | FOUR_DEVICES, check=True)
    np.testing.assert_allclose(np.load(file), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_of_the_network_alone(weights, tmp_path):
    _, expected = results(tmp_path, *SMALL, f"--weights={weights[0]}")
    result, logits = results(tmp_path, *SMALL, f"--weights={weights[0]}", "--config.precision=bfloat16")
    assert logits.dtype == np.float32
    # bfloat16 keeps 8 bits.
    assert 0 < np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    assert result["precision"] == "bfloat16"


def test_a_batch_is_dispatched_before_the_one_before_is_waited_for():
    random, asked = np.random.default_rng(0), []
    split = Split(random.integers(0, 256, (10, 8, 8, 1), np.uint8), np.zeros(10, np.int32))

    class Recording(EvaluationFeed):
        def chunks(self, epoch, first=0):
            for chunk in super().chunks(epoch, first):
                asked.append(chunk.first)
                yield chunk

    devices = Devices(batches_per_call=1)
    feed = Recording(split, Preparation((0.5,), (0.25,)), batch_size=4, devices=devices)
    batches = Forward(tiny_network(3, channels=1), devices).batches(feed)
    assert [(len(output.labels), list(asked)) for output in batches] == [
        (4, [0, 1]),
        (4, [0, 1, 2]),
        (2, [0, 1, 2]),
    ]


def test_a_folder_is_streamed_in_the_order_of_its_paths(image_folder, colour_weights, tmp_path, capsys):
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
    assert result["top5_error"] == 0
    assert result["data"]["root"] == str(image_folder)
    output = capsys.readouterr().out
    assert "5 held-out images in 2 classes, streamed" in output
    assert "warning" not in output


def test_cifar10_small_evaluates_too(image_folder, colour_weights):
    arguments = [f"--config={CONFIGS / 'cifar10_small.py'}:baseline", f"--config.data.root={image_folder}"]
    arguments += ["--config.data.test_per_class=1", f"--weights={colour_weights}"]
    assert evaluate.main(arguments) == 0


def test_a_prepared_data_set_is_streamed_or_taken_in_part(tmp_path, capsys):
    save_tiny(tmp_path / "weights", 3, channels=3, size=6, mean=0.5, std=0.25)
    prepare(tmp_path, {"train": [example(0)], "test": [example(seed) for seed in range(9, 16)]})
    arguments = on_folder(tmp_path, "source=tfds", "name=tiny", "batch_size=4", "train_per_class=100")
    arguments += ["--config.data.image_size=6", f"--weights={tmp_path / 'weights'}"]
    result, streamed = results(tmp_path, *arguments)
    assert result["num_examples"] == 7
    assert "7 held-out images in 3 classes, streamed" in capsys.readouterr().out
    part, resident = results(tmp_path, *arguments, "--config.data.test_per_class=1")
    assert part["num_examples"] == 3
    assert "3 held-out images in 3 classes, in memory" in capsys.readouterr().out
    network, _ = load_network(tmp_path / "weights")
    expected = one_at_a_time(network, [noise(seed) for seed in range(9, 16)], 0.5, 0.25)
    # tfds shuffles what it writes: by its logits one knows an image again.
    distances = np.abs(streamed[:, :, None] - expected[:, None]).max(axis=(0, 3))
    order = np.argmin(distances, axis=1)
    assert sorted(order) == list(range(7))
    assert distances.min(axis=1).max() < 1e-5
    labels = order % 3
    first = sorted(labels.tolist().index(label) for label in range(3))
    np.testing.assert_allclose(resident, streamed[:, first], rtol=1e-5, atol=1e-5)
    wrong = np.argmax(streamed[-1], axis=-1) != labels
    assert result["top1_error"] == pytest.approx(100 * wrong.mean())


def test_real_photographs(tmp_path):
    if "DKS_TEST_DATA" not in os.environ:
        pytest.skip("DKS_TEST_DATA is unset: it names a folder with imagenet_samples")
    photographs = Path(os.environ["DKS_TEST_DATA"]) / "imagenet_samples/val"
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(photographs)
    paths = sorted(photographs.glob("*/*.JPEG"))
    names = sorted({path.parent.name for path in paths})
    network = save_tiny(tmp_path / "weights", len(names), channels=3, size=32, class_names=names)
    arguments = on_folder(tmp_path, "image_size=32", "batch_size=16", "mean=(0.305,0.305,0.305)")
    arguments += ["--config.data.std=(0.376,0.376,0.376)", f"--weights={tmp_path / 'weights'}"]
    result, logits = results(tmp_path, *arguments)
    images = [
        np.asarray(Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))
        for path in paths
    ]
    expected = one_at_a_time(network, images, 0.305, 0.376)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    labels = [names.index(path.parent.name) for path in paths]
    for k, name in ((1, "top1_error"), (5, "top5_error")):
        accuracy = top_k_accuracy_score(labels, expected[-1], k=k, labels=np.arange(len(names)))
        assert result[name] == pytest.approx(100 * (1 - accuracy))


def test_an_unreadable_image_stops_it_by_name(image_folder, colour_weights, tmp_path, capsys):
    (image_folder / "test/b/1.png").write_bytes(b"no image")
    error = fails(
        tmp_path,
        capsys,
        *on_folder(image_folder),
        f"--weights={colour_weights}",
        f"--output={tmp_path / 'results.json'}",
    )
    assert "test/b/1.png" in error


def test_unreadable_images_are_skipped_counted_and_listed(image_folder, colour_weights, tmp_path, capsys):
    arguments = [*on_folder(image_folder, "batch_size=1"), f"--weights={colour_weights}", "--skip_unreadable"]
    _, whole = results(tmp_path, *arguments)
    whole_output = capsys.readouterr().out
    assert "skipped" not in whole_output
    for name in ("a/0.png", "b/0.png"):
        (image_folder / "test" / name).write_bytes(b"no image")
    result, logits = results(tmp_path, *arguments)
    assert result["skipped"] == [str(image_folder / "test" / name) for name in ("a/0.png", "b/0.png")]
    assert result["num_examples"] == 2
    np.testing.assert_array_equal(logits, whole)
    output = capsys.readouterr().out
    second = image_folder / "test" / "b" / "0.png"
    assert f"skipped, since it cannot be decoded: {second}\nskipped: 2 of 4 images\n" in output
    # But for what was skipped and how fast it was, nothing has changed.
    assert output[output.index("\n\n|") :] == whole_output[whole_output.index("\n\n|") :]


def test_nothing_but_unreadable_images_is_an_error(image_folder, colour_weights, tmp_path, capsys):
    for name in ("a/1.png", "b/1.png"):
        (image_folder / "test" / name).write_bytes(b"no image")
    arguments = [*on_folder(image_folder), f"--weights={colour_weights}", "--skip_unreadable"]
    error = fails(tmp_path, capsys, *arguments, f"--output={tmp_path / 'results.json'}")
    assert f"none can be decoded, {image_folder / 'test/a/1.png'} being the first of 2." in error


def test_more_classes_than_the_weights_have_are_refused_and_fewer_are_not(
    image_folder, colour_weights, tmp_path, capsys
):
    for split in ("train", "test"):
        shutil.copytree(image_folder / split / "a", image_folder / split / "c")
    error = fails(tmp_path, capsys, *on_folder(image_folder), f"--weights={colour_weights}")
    assert "must know all 3 classes of the data" in error
    assert "has 2." in error
    for name in ("b", "c"):
        for split in ("train", "test"):
            shutil.rmtree(image_folder / split / name)
    assert evaluate.main([*on_folder(image_folder), f"--weights={colour_weights}"]) == 0
    assert "1 held-out image in 1 class, streamed\n" in capsys.readouterr().out


def test_images_with_other_channels_are_refused(weights, image_folder, tmp_path, capsys):
    error = fails(tmp_path, capsys, *on_folder(image_folder), f"--weights={weights[0]}")
    assert "must be of a network for as many channels as the images of the data have, 3; " in error
    assert error.endswith("takes 1.\n")


def test_other_classes_and_another_preprocessing_are_warned_of(image_folder, colour_weights, capsys):
    for split in ("train", "test"):
        (image_folder / split / "b").rename(image_folder / split / "x")
    arguments = on_folder(image_folder, "std=(0.5,0.5,0.5)", "image_size=16")
    assert evaluate.main([*arguments, f"--weights={colour_weights}"]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: the classes differ: label 1 is 'x' here, 'b' in the weights, so that the errors compare "
        "different classes",
        "warning: the preprocessing differs: size [16, 16] here, [8, 8] in the weights; "
        "std [0.5, 0.5, 0.5] here, [0.25, 0.25, 0.25] in the weights",
    ]


def warnings_of(weights, *arguments):
    """The warnings of an evaluation of digits that computes nothing."""
    command = evaluate.parse([*SMALL, f"--weights={weights}", *arguments])
    setting = evaluation.prepare(command.config, command.weights)
    return [line for line in evaluation_report.describe(setting) if line.startswith("warning: ")]


def change_metadata(folder, change):
    file = folder / "metadata.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


def test_a_preprocessing_that_is_assumed_is_not_warned_of(tmp_path):
    save_tiny(tmp_path / "weights", mean=0.5)
    (warning,) = warnings_of(tmp_path / "weights")
    assert warning.startswith("warning: the preprocessing differs: mean [0.305] here, [0.5] in the weights")
    change_metadata(tmp_path / "weights", lambda metadata: metadata["preprocessing"].update(assumed=True))
    assert warnings_of(tmp_path / "weights") == []


def test_another_network_in_the_config_is_warned_of_first(tmp_path):
    save_tiny(tmp_path / "weights", mean=0.5)
    network, preprocessing = warnings_of(tmp_path / "weights", "--config.model.width=2")
    assert network == (
        "warning: the network differs: wide_resnet (depth 16, width 2) in the config, wide_resnet (depth 16, "
        "width 1) in the weights, which is evaluated"
    )
    assert preprocessing.startswith("warning: the preprocessing differs")


def test_dropout_and_the_order_of_arguments_make_no_other_network(weights, tmp_path):
    folder = shutil.copytree(weights[0], tmp_path / "weights")
    model = {"dropout": 0.3, "width": 1, "depth": 16, "name": "wide_resnet"}
    change_metadata(folder, lambda metadata: metadata.update(model=model))
    assert warnings_of(folder) == []


def test_skipping_images_of_tfds_by_class_is_refused_before_any_are_read(weights, tmp_path, capsys):
    arguments = on_folder(tmp_path / "absent", "source=tfds", "name=tiny", "test_per_class=2")
    error = fails(tmp_path, capsys, *arguments, f"--weights={weights[0]}", "--skip_unreadable")
    assert "`data.test_per_class` must be 0 for tfds with `--skip_unreadable`" in error
    assert error.endswith("got 2.\n")


def test_the_names_of_images_are_asked_for_on_failure_alone():
    asked = []

    def name(index):
        asked.append(index)
        return f"image {index}"

    logits = np.zeros((2, 3, 4), np.float32)
    require_finite_logits(logits, [5, 7, 8], name)
    assert asked == []
    logits[1, 1:, 0] = np.nan, np.inf
    with pytest.raises(InputError, match="those of image 7 are not"):
        require_finite_logits(logits, [5, 7, 8], name)
    assert asked == [7]


def test_a_large_likelihood_is_shown_in_four_digits_and_one_image_as_one():
    def shown(nll, num_examples=1234):
        result = evaluation.Result({"main": Figures(50.0, 25.0, nll, 0.5)}, num_examples, [], None, 10.0)
        return evaluation_report.show(result)

    assert "| 9999.8765 |" in shown(9999.87654)
    assert "| 1.235e+08 |" in shown(123456789.0)
    assert shown(1.0).startswith("1,234 images, 10.0 images/s\n")
    assert shown(1.0, 1).startswith("1 image, 10.0 images/s\n")


def test_help_lists_the_fields_that_have_an_effect(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    output = capsys.readouterr().out
    assert "others have no effect" in output
    listed = re.findall(r"^  --config\.(\S+)", output, re.MULTILINE)
    assert set(listed) == {"precision", "deterministic"} | {
        f"data.{name}"
        for name in (
            *("source", "name", "root", "image_size", "preprocessing", "mean", "std"),
            *("test_per_class", "batch_size"),
        )
    }


def test_weights_that_give_no_number_are_named_with_the_example(tmp_path, capsys):
    save_tiny(tmp_path / "weights", **{"head.fc.bias": np.full(10, np.nan, np.float32)})
    error = fails(
        tmp_path, capsys, *SMALL, f"--weights={tmp_path / 'weights'}", f"--logits={tmp_path / 'l.npy'}"
    )
    assert "must be finite; those of held-out image 0 are not" in error


WRONG = {
    "no weights": (["--weights=nowhere"], "There are no weights at nowhere"),
    "an absent folder": (["--output=nowhere/results.json"], "`--output` must name a file in a folder that"),
    "a folder as output": (["--output=."], "`--output` must name a file; . is a folder"),
    "a folder as logits": (["--logits=.."], "`--logits` must name a file; .. is a folder"),
    "a device": (["--output=/dev/null"], "`--output` must name a file; /dev/null is a device"),
    "no place to write": (["--logits=/proc/logits.npy"], "`--logits` must name a file that can be written"),
    "too long a name": ([f"--output={'x' * 300}"], "File name too long"),
    "one file for both": (
        ["--output=x", "--logits=./x"],
        "`--logits` must name another file than `--output`",
    ),
    "precision": (["--config.precision=float64"], "`precision` must be one of float32, bfloat16"),
    "unknown flag": (["--workdir=x"], "Unrecognized arguments: --workdir=x"),
    "unknown field": (["--config.data.batch=3"], "The config has no field `data.batch`"),
    "absent data": (
        ["--config.data.source=folder", "--config.data.root=nowhere", "--config.data.mean=(0,0,0)"],
        "`data.std` must hold one number for each of the 3 channels",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_input_gets_one_sentence(wrong, weights, tmp_path, monkeypatch, capsys):
    arguments, sentence = WRONG[wrong]
    monkeypatch.chdir(tmp_path)

    def late(*_, **__):
        raise AssertionError("nothing is evaluated before the input is checked")

    monkeypatch.setattr(evaluation, "evaluate", late)
    assert sentence in fails(tmp_path, capsys, *SMALL, f"--weights={weights[0]}", *arguments)


@pytest.mark.parametrize("field", ["model.name", "class_names", "preprocessing.name"])
def test_metadata_that_lack_a_field_are_refused(field, weights, tmp_path, capsys):
    folder = shutil.copytree(weights[0], tmp_path / "weights")
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata[field.split(".")[0]]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    sentence = f"must have `{field}` as it was written; got None: put a copy of metadata.json back.\n"
    assert fails(tmp_path, capsys, *SMALL, f"--weights={folder}").endswith(sentence)


def test_ctrl_c_leaves_one_line_and_nothing_else(weights, tmp_path, monkeypatch, capsys):
    whole = evaluation.scores

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return whole(*arguments)

    monkeypatch.setattr(evaluation, "scores", interrupted)
    command = [*SMALL, f"--weights={weights[0]}", f"--output={tmp_path / 'results.json'}"]
    # Processes of pytest-xdist ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert evaluate.main(command) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "stopped: the same command starts again\n"
    assert list(tmp_path.iterdir()) == []


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


def test_a_file_is_replaced_whole(weights, tmp_path):
    (tmp_path / "results.json").write_text("an earlier result")
    result, _ = results(tmp_path, *SMALL, f"--weights={weights[0]}")
    assert result["num_examples"] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logits.npy", "results.json"]
