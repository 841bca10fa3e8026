"""Labels: a network that knows its images by heart has no error on any layout, or the layout is refused."""

import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from dks_jax import evaluate
from dks_jax.data.imagenet_classes import wordnet_ids
from support.by_heart import picture, save_knowing
from support.runs import DIGITS, user_error
from support.tfds_files import FEATURES, IMAGE, encoded, prepare

pytestmark = pytest.mark.usefixtures("tiny_model")

TWELVE = np.stack([picture(i) for i in range(12)])
NAMES = ["ant", "bee", "cat", "dog", "emu", "fox", "gnu", "hen", "ibis", "jay", "koi", "lark"]
NUMBERS = [str(i) for i in range(12)]


def save(root, split, folder, i, *, name="0.png", channels=3):
    path = root / split / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(i, channels=channels)).save(path, format="PNG")


def evaluate_folder(tmp_path, weights, *fields, root="data"):
    """(exit status, the JSON result or None)."""
    output = tmp_path / "result.json"
    fields = ["mean=()", "std=()", "source=folder", f"root={tmp_path / root}", *fields]
    arguments = [DIGITS, f"--weights={weights}", f"--output={output}"]
    status = evaluate.main([*arguments, *(f"--config.data.{field}" for field in fields)])
    return status, json.loads(output.read_text()) if output.exists() else None


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unnamed") / "weights"
    save_knowing(folder, TWELVE)
    return folder


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named") / "weights"
    save_knowing(folder, TWELVE, NAMES)
    return folder


def layout(root, folders):
    """Puts image i into the folder of index i in val, for each index with a folder."""
    for i, folder in folders.items():
        save(root, "val", folder, i)


RIGHT = {
    "numbers": (None, dict(enumerate(NUMBERS))),
    "padded numbers": (None, {i: f"{i:03}" for i in range(12)}),
    "a subset of the numbers": (None, {3: "3", 8: "08"}),
    "twelve other names, by place": (None, dict(enumerate(NAMES))),
    "names": (NAMES, dict(enumerate(NAMES))),
    "a subset of the names": (NAMES, {2: "cat", 10: "koi"}),
    "names that are numbers in the order of texts": (sorted(NUMBERS), dict(enumerate(sorted(NUMBERS)))),
    "the same numbers padded": (sorted(NUMBERS), {i: f"{int(n):02}" for i, n in enumerate(sorted(NUMBERS))}),
    "numbers that count from 1, known": (
        [str(i + 1) for i in range(12)],
        {i: f"{i + 1:02}" for i in range(12)},
    ),
}


@pytest.mark.parametrize(("trained", "folders"), RIGHT.values(), ids=RIGHT)
def test_labels_are_right_on_every_layout(tmp_path, trained, folders):
    save_knowing(tmp_path / "weights", TWELVE, trained)
    layout(tmp_path / "data", folders)
    status, result = evaluate_folder(tmp_path, tmp_path / "weights")
    assert status == 0
    assert (result["top1_error"], result["num_examples"]) == (0, len(folders))
    # Labels by number or by place are assumed; those by name are known.
    by_name = trained is not None
    assert any("labels" in sentence for sentence in result["assumed"]) != by_name
    assert any(f"{len(folders)} of the 12" in s for s in result["assumed"]) == (len(folders) < 12)


REFUSED = {
    "numbers from 1": (None, {i: str(i + 1) for i in range(12)}, "from 1"),
    "a number too large": (None, {0: "0", 1: "12"}, "12"),
    "fewer folders than classes": (None, {0: "ant", 1: "bee"}, "--classes"),
    "1 beside 01": (None, {0: "0", 1: "1", 2: "01"}, "'01'"),
    "a name that is none of the classes": (NAMES, {0: "ant", 1: "wasp"}, "wasp"),
    "numbers against names": (NAMES, dict(enumerate(NUMBERS)), "--classes"),
}


@pytest.mark.parametrize(("trained", "folders", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_known_is_refused(tmp_path, capsys, trained, folders, said):
    save_knowing(tmp_path / "weights", TWELVE, trained)
    layout(tmp_path / "data", folders)
    status, result = evaluate_folder(tmp_path, tmp_path / "weights")
    assert (status, result) == (2, None)
    assert said in user_error(capsys)


def test_an_empty_class_folder_shifts_nothing(tmp_path, named, unnamed):
    layout(tmp_path / "data", {i: name for i, name in enumerate(NAMES) if i != 4})
    (tmp_path / "data/val/emu").mkdir()
    for weights in (named, unnamed):
        status, result = evaluate_folder(tmp_path, weights)
        assert (status, result["top1_error"]) == (0, 0)
        assert any("emu" in warning for warning in result["warnings"])


def test_without_names_the_folders_of_train_give_the_places(tmp_path, unnamed):
    layout(tmp_path / "data", {2: "cat", 10: "koi"})
    for name in NAMES:
        (tmp_path / "data/train" / name).mkdir(parents=True)
    status, result = evaluate_folder(tmp_path, unnamed)
    assert (status, result["top1_error"]) == (0, 0)


def test_names_are_compared_in_one_unicode_form(tmp_path):
    names = ["café", "größe", "niño", *NAMES[3:]]
    save_knowing(tmp_path / "weights", TWELVE, [unicodedata.normalize("NFC", name) for name in names])
    layout(tmp_path / "data", {i: unicodedata.normalize("NFD", name) for i, name in enumerate(names)})
    status, result = evaluate_folder(tmp_path, tmp_path / "weights")
    assert (status, result["top1_error"], result["num_examples"]) == (0, 0, 12)


def test_ten_of_the_classes_of_imagenet_go_by_their_ids(tmp_path):
    wnids = wordnet_ids()
    images = np.stack([picture(i) for i in range(1000)])
    # Eight features cannot tell a thousand images apart beyond doubt, so a few far apart are evaluated.
    save_knowing(tmp_path / "known", images, wnids)
    save_knowing(tmp_path / "unknown", images)
    layout(tmp_path / "data", {i: wnids[i] for i in range(5, 1000, 100)})
    for weights in ("known", "unknown"):
        status, result = evaluate_folder(tmp_path, tmp_path / weights)
        assert (status, result["top1_error"], result["num_examples"]) == (0, 0, 10)


def test_linked_folders_and_odd_endings_count(tmp_path, named):
    layout(tmp_path / "data", dict(enumerate(NAMES)))
    save(tmp_path, "store", "session", 0, name="more.dat")
    os.symlink(tmp_path / "store/session", tmp_path / "data/val/ant/session")
    save(tmp_path / "data", "val", "bee", 1, name="without_ending")
    (tmp_path / "data/val/bee/notes.txt").write_text("no image")
    status, result = evaluate_folder(tmp_path, named)
    assert (status, result["top1_error"], result["num_examples"]) == (0, 0, 14)
    assert any("notes.txt" in warning for warning in result["warnings"])


def test_grey_weights_are_evaluated_on_grey_images(tmp_path):
    images = np.stack([picture(i, channels=1) for i in range(12)])
    save_knowing(tmp_path / "weights", images, NAMES)
    for i, name in enumerate(NAMES):
        save(tmp_path / "data", "val", name, i, channels=1)
    for fields in ([], ["channels=1"], ["mean=(0.5,)", "std=(0.25,)"]):
        status, result = evaluate_folder(tmp_path, tmp_path / "weights", *fields)
        assert (status, result["top1_error"]) == (0, 0)
    assert evaluate_folder(tmp_path, tmp_path / "weights", "channels=3")[0] == 2


def test_a_data_set_of_tfds_goes_by_name_or_by_number(tmp_path, capsys):
    names = list(FEATURES["label"].names)
    images = TWELVE[: len(names)]
    examples = [
        {"image": encoded(images[i]), "label": i, "id": str(i), "coarse_label": 0} for i in range(len(names))
    ]
    features = FEATURES | {"image": IMAGE(shape=(8, 8, 3))}
    prepare(tmp_path / "tfds", {"test": examples}, features=features)
    order = [2, 0, 1]
    save_knowing(tmp_path / "reordered", images[order], [names[i] for i in order])
    save_knowing(tmp_path / "unnamed", images)
    save_knowing(tmp_path / "others", images, NAMES[:3])
    save_knowing(tmp_path / "more", TWELVE)
    fields = ["source=tfds", "name=tiny"]
    for weights in ("reordered", "unnamed"):
        status, result = evaluate_folder(tmp_path, tmp_path / weights, *fields, root="tfds")
        assert (status, result["top1_error"]) == (0, 0)
    capsys.readouterr()
    for weights in ("others", "more"):
        assert evaluate_folder(tmp_path, tmp_path / weights, *fields, root="tfds")[0] == 2
        user_error(capsys)
