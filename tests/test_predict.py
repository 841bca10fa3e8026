"""Predictions against the network applied by hand, and wrong inputs."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dks_jax import predict
from dks_jax.functional import Functional
from tiny_network import save_tiny

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


def as_json(capsys, *arguments, err=None):
    assert predict.main(["--json", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert err in (None, captured.err)
    return json.loads(captured.out)


def test_the_five_likeliest_classes_are_those_of_the_network(weights, tmp_path, capsys):
    folder, network = weights
    path = save(tmp_path / "image.png", 0)
    (described,) = as_json(capsys, f"--weights={folder}", path)
    assert described["image"] == str(path)
    expected = by_hand(network, path)
    order = sorted(range(7), key=lambda label: -expected[label])[:5]
    assert [p["label"] for p in described["predictions"]] == order
    assert [p["class"] for p in described["predictions"]] == [NAMES[label] for label in order]
    probabilities = [p["probability"] for p in described["predictions"]]
    np.testing.assert_allclose(probabilities, expected[order], rtol=1e-4)


def test_a_line_beside_the_result_tells_how_the_images_are_prepared(weights, tmp_path, capsys):
    path = save(tmp_path / "image.png", 0)
    line = "preprocessing: squash to 8x8x3, mean 0.4 0.4 0.4, std 0.3 0.3 0.3"
    as_json(capsys, f"--weights={weights[0]}", path, err=f"{line}\n")
    folder = shutil.copytree(weights[0], tmp_path / "weights")
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["preprocessing"]["assumed"] = True
    (folder / "metadata.json").write_text(json.dumps(metadata))
    line += " (assumed: the PyTorch checkpoint does not say)"
    as_json(capsys, f"--weights={folder}", path, err=f"{line}\n")


def test_progress_is_shown_on_a_terminal(weights, tmp_path, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr", shown)
    path = save(tmp_path / "image.png", 0)
    assert predict.main([f"--weights={weights[0]}", str(path), str(path)]) == 0
    assert "2/2" in shown.getvalue()


def test_the_table_shows_images_classes_and_probabilities(weights, tmp_path, capsys):
    folder, _ = weights
    paths = [save(tmp_path / name, seed) for seed, name in enumerate(["1.png", "a|b.png"])]
    described = as_json(capsys, f"--weights={folder}", *paths)
    assert predict.main([f"--weights={folder}", *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split(" | ")] for line in (line[2:-2] for line in lines)]
    assert rows[0] == ["image", "class", "probability"]
    assert set("".join(rows[1])) == {"-"}
    assert rows[2:] == [
        [
            image["image"].replace("|", "\\|") if rank == 0 else "",
            p["class"],
            f"{100 * p['probability']:.2f} %",
        ]
        for image in described
        for rank, p in enumerate(image["predictions"])
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
    described = as_json(capsys, f"--weights={folder}", single, images, single)
    assert [own["image"] for own in described] == list(map(str, [single, *found, single]))
    assert len(traced) == 1
    for own in (described[31], described[33], described[40]):
        expected = by_hand(network, own["image"])
        assert own["predictions"][0]["label"] == np.argmax(expected)
        assert own["predictions"][0]["probability"] == pytest.approx(expected.max(), rel=1e-4)


def test_grey_images_unnamed_classes_and_fewer_than_five(tmp_path, capsys):
    network = save_tiny(tmp_path / "weights", 3)
    metadata = json.loads((tmp_path / "weights/metadata.json").read_text())
    path = save(tmp_path / "image.png", 0)
    (described,) = as_json(capsys, f"--weights={tmp_path / 'weights'}", path)
    expected = by_hand(network, path, "L", 0.305, 0.376)
    assert [p["label"] for p in described["predictions"]] == np.argsort(-expected).tolist()
    assert sum(p["probability"] for p in described["predictions"]) == pytest.approx(1)
    assert [p["class"] for p in described["predictions"]] == [
        metadata["class_names"][p["label"]] for p in described["predictions"]
    ]


def test_classes_without_names_are_numbers(capsys):
    unnamed = [[predict.Prediction(3, None, 0.5)]]
    assert json.loads(predict.as_json(["x.png"], unnamed))[0]["predictions"] == [
        {"label": 3, "class": None, "probability": 0.5}
    ]
    assert [cell.strip() for cell in predict.as_table(["x.png"], unnamed).splitlines()[-1].split("|")] == [
        "",
        "x.png",
        "3",
        "50.00 %",
        "",
    ]


WRONG = {
    "no image": ([], "The following arguments are required: IMAGE"),
    "an absent file": (["nowhere.png"], "there is no nowhere.png"),
    "a folder without images": (["empty"], "empty holds no image"),
    "an unreadable image": (["whole.png", "broken.png"], "broken.png cannot be decoded as an image"),
    "an image of 16 bits": (["deep.png"], "deep.png has the pixel mode I;16"),
    "no weights": (["--weights=empty", "whole.png"], "empty holds no weights"),
    "unknown flag": (["--top=3", "whole.png"], "Unrecognized arguments: --top=3"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_input_gets_one_sentence(wrong, weights, tmp_path, monkeypatch, capsys):
    arguments, sentence = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "whole.png", 0)
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "empty").mkdir()
    assert predict.main([f"--weights={weights[0]}", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert sentence in captured.err
