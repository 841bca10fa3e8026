"""Predictions against the network applied by hand, and wrong inputs."""

import json

import numpy as np
import pytest
from PIL import Image

from dks_jax import predict
from dks_jax.nn.functional import Functional
from support.runs import user_error
from support.tiny_network import save_tiny

pytestmark = pytest.mark.usefixtures("tiny_model")

NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a network with two branches for seven classes, and the network."""
    folder = tmp_path_factory.mktemp("weights") / "weights"
    return folder, save_tiny(folder, 7, channels=3, mean=0.4, std=0.3, class_names=NAMES)


def save(path, seed, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (11, 9, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def by_hand(network, path, mode="RGB", mean=0.4, std=0.3):
    """The probabilities of the main classifier, in float64."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert(mode).resize((8, 8), Image.Resampling.BICUBIC), np.float64)
    images = ((pixels / 255 - mean) / std).reshape(1, 8, 8, -1)
    logits = np.asarray(network(images.astype(np.float32))[-1, 0], np.float64)
    return np.exp(logits) / np.exp(logits).sum()


def as_json(capsys, *arguments):
    """What is printed, and what is said beside it of how the images are prepared."""
    assert predict.main(["--json", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def test_the_five_likeliest_classes_are_those_of_the_network(weights, tmp_path, capsys):
    folder, network = weights
    paths = [save(tmp_path / name, seed) for seed, name in enumerate(["1.png", "a|b.png"])]
    described, preprocessing = as_json(capsys, f"--weights={folder}", *paths)
    assert "squash to 8x8x3" in preprocessing
    assert "assumed" not in preprocessing
    for path, own in zip(paths, described, strict=True):
        assert own["image"] == str(path)
        expected = by_hand(network, path)
        order = sorted(range(7), key=lambda label, p=expected: -p[label])[:5]
        assert [p["label"] for p in own["predictions"]] == order
        assert [p["class"] for p in own["predictions"]] == [NAMES[label] for label in order]
        probabilities = [p["probability"] for p in own["predictions"]]
        np.testing.assert_allclose(probabilities, expected[order], rtol=1e-4)
    # The table shows the same.
    assert predict.main([f"--weights={folder}", *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split(" | ")] for line in (line[2:-2] for line in lines)]
    assert rows[0] == ["image", "class", "probability"]
    assert rows[2:] == [
        [own["image"].replace("|", r"\|") if not rank else "", p["class"], f"{100 * p['probability']:.2f} %"]
        for own in described
        for rank, p in enumerate(own["predictions"])
    ]


def test_folders_are_walked_in_sorted_order_and_compiled_for_once(weights, tmp_path, capsys, monkeypatch):
    folder, network = weights
    images = tmp_path / "images"
    found = [save(images / f"{i:02}.png", i) for i in range(38)] + [save(images / "sub/0.JPG", 38)]
    for hidden in (".hidden.png", ".cache/0.png"):
        save(images / hidden, 0)
    (images / "notes.txt").write_text("no image")
    (images / "folder.png").mkdir()
    single = save(tmp_path / "single.png", 40)
    traced = []
    forward = Functional.eval
    monkeypatch.setattr(Functional, "eval", lambda *arguments: (traced.append(1), forward(*arguments))[1])
    described, _ = as_json(capsys, f"--weights={folder}", single, images, single)
    assert [own["image"] for own in described] == list(map(str, [single, *found, single]))
    assert len(traced) == 1
    for own in (described[31], described[33], described[40]):
        expected = by_hand(network, own["image"])
        assert own["predictions"][0]["label"] == np.argmax(expected)
        assert own["predictions"][0]["probability"] == pytest.approx(expected.max(), rel=1e-4)


def test_grey_images_fewer_than_five_classes_and_an_assumed_preprocessing(tmp_path, capsys):
    network = save_tiny(tmp_path / "weights", 3)
    metadata = json.loads((tmp_path / "weights" / "metadata.json").read_text())
    metadata["preprocessing"]["assumed"] = True
    (tmp_path / "weights" / "metadata.json").write_text(json.dumps(metadata))
    path = save(tmp_path / "image.png", 0)
    ((described,), preprocessing) = as_json(capsys, f"--weights={tmp_path / 'weights'}", path)
    expected = by_hand(network, path, "L", 0.305, 0.376)
    assert [p["label"] for p in described["predictions"]] == np.argsort(-expected).tolist()
    assert sum(p["probability"] for p in described["predictions"]) == pytest.approx(1)
    assert "assumed" in preprocessing


WRONG = {
    "no image": ([], "IMAGE"),
    "an absent file": (["nowhere.png"], "nowhere.png"),
    "a folder without images": (["empty"], "empty"),
    "an unreadable image": (["whole.png", "broken.png"], "broken.png"),
    "an image of 16 bits": (["deep.png"], "deep.png has the pixel mode I;16"),
    "no weights": (["--weights=empty", "whole.png"], "empty"),
    "an unknown flag": (["--top=3", "whole.png"], "--top=3"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_input_is_named(wrong, weights, tmp_path, monkeypatch, capsys):
    arguments, named = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "whole.png", 0)
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "empty").mkdir()
    assert predict.main([f"--weights={weights[0]}", *arguments]) == 2
    assert named in user_error(capsys, alone=True)


def test_unreadable_images_are_left_out_on_request_or_counted_in_one_pass(weights, tmp_path, capsys):
    paths = [save(tmp_path / f"{i:02}.png", i) for i in range(40)]
    for i in (3, 39):
        paths[i].write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image")
    assert predict.main([f"--weights={weights[0]}", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert all(str(paths[i]) in error for i in (3, 39))
    assert "notes.txt" in error
    described, said = as_json(capsys, f"--weights={weights[0]}", "--skip_unreadable", tmp_path)
    assert [i for i, own in enumerate(described) if not own["predictions"]] == [3, 39]
    assert all(str(paths[i]) in said for i in (3, 39))
