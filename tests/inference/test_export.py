"""Exported files against the network applied by hand, what they say of themselves, and wrong input."""

import json
import mmap
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image

from dks_jax import InputError, export
from dks_jax.inference.exporting import Exported, stablehlo
from dks_jax.nn import get_arrays, set_arrays
from dks_jax.runtime import extras
from dks_jax.weights import METADATA, load_weights
from support.runs import user_error
from support.small_disk import needs_root
from support.tiny_network import save_tiny, tiny_network

pytest.importorskip("flatbuffers", reason="flatbuffers is not installed: pip install -e '.[test]'")
pytestmark = pytest.mark.usefixtures("tiny_model")

NO_EXTRA = "jax2onnx is not installed: pip install -e '.[export]'"
NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnü"]
MEAN, STD = 0.4, 0.3
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
BRANCHES = ("branch1", "branch2", "main")
# What --input and --output_kind may be, in pairs that show each once.
KINDS = [("uint8", "logits"), ("float", "probabilities")]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a network with two branches, whose arrays are all random, and the network."""
    random = np.random.default_rng(1)
    own = get_arrays(tiny_network(7))
    changed = {
        name: jnp.asarray(random.uniform(0.5, 1.5, array.shape), jnp.float32)
        for name, array in own.items()
        if name.endswith((".mean", ".var", ".bias", ".scale"))
    }
    folder = tmp_path_factory.mktemp("weights") / "weights"
    network = save_tiny(folder, 7, channels=3, mean=MEAN, std=STD, class_names=NAMES, **changed)
    set_arrays(network, get_arrays(network) | changed)
    return folder, network


def normalised(images):
    return ((images / 255 - MEAN) / STD).astype(np.float32)


def by_hand(network, images, classifier, kind):
    logits = np.asarray(network(normalised(images)), np.float64)[BRANCHES.index(classifier)]
    exponentials = np.exp(logits)
    return logits if kind == "logits" else exponentials / exponentials.sum(axis=1, keepdims=True)


def assert_computes(run, network, classifier, input_kind, output_kind):
    for batch in (IMAGES[:1], IMAGES):
        expected = by_hand(network, batch, classifier, output_kind)
        found = np.asarray(run(batch if input_kind == "uint8" else normalised(batch)))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def assert_describes(description, classifier, input_kind, output_kind):
    assert description["class_names"] == NAMES
    assert description["classifier"] == classifier
    assert description["model"]["name"] == "wide_resnet"
    assert description["preprocessing"]["name"] == "squash"
    assert description["preprocessing"]["mean"] == [MEAN] * 3
    assert description["input"]["dtype"] == ("uint8" if input_kind == "uint8" else "float32")
    assert description["input"]["shape"] == ["batch", 8, 8, 3]
    assert description["output"]["kind"] == output_kind
    assert description["output"]["shape"] == ["batch", 7]


def exports(folder, file, *arguments):
    return export.main([f"--weights={folder}", f"--output={file}", *arguments])


@pytest.mark.parametrize(("input_kind", "output_kind"), KINDS)
def test_a_stablehlo_file_computes_what_the_network_computes_for_any_batch(
    input_kind, output_kind, weights, tmp_path, capsys
):
    folder, network = weights
    classifier = "main" if input_kind == "uint8" else "branch1"
    file = tmp_path / "own.stablehlo"
    flags = [f"--classifier={classifier}", f"--input={input_kind}", f"--output_kind={output_kind}"]
    assert exports(folder, file, *flags) == 0
    assert "batches of 1 and 8" in capsys.readouterr().out
    serialised = file.read_bytes()
    program = jax_export.deserialize(bytearray(serialised))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert bytes(program.serialize()) == serialised
    assert_computes(program.call, network, classifier, input_kind, output_kind)
    assert {path.name for path in tmp_path.iterdir()} == {"own.stablehlo", "own.stablehlo.json"}
    description = json.loads((tmp_path / "own.stablehlo.json").read_text())
    assert_describes(description, classifier, input_kind, output_kind)


def test_the_program_is_plain_and_names_no_file_of_this_machine(weights, tmp_path):
    stablehlo.write(tmp_path / "own", Exported(load_weights(weights[0])))
    serialised = (tmp_path / "own").read_bytes()
    assert b".py" not in serialised
    program = jax_export.deserialize(bytearray(serialised)).mlir_module()
    # Neither the look-up of a CPU's normalisation nor the keys of dropout.
    assert "gather" not in program
    assert "threefry" not in program
    assert "HIGHEST" in program


def test_no_branch_is_left_in_the_file(weights, tmp_path):
    folder, network = weights
    arrays = {name: a for name, a in get_arrays(network).items() if not name.startswith("branches.")}
    plain = tmp_path / "plain"
    save_tiny(plain, 7, channels=3, mean=MEAN, std=STD, class_names=NAMES, branches=False, **arrays)
    for origin, name in ((folder, "deep"), (plain, "backbone")):
        stablehlo.write(tmp_path / name, Exported(load_weights(origin)))
    assert (tmp_path / "deep").read_bytes() == (tmp_path / "backbone").read_bytes()


@pytest.mark.parametrize(("input_kind", "output_kind"), KINDS)
def test_an_onnx_file_computes_what_the_network_computes_and_describes_itself(
    input_kind, output_kind, weights, tmp_path
):
    pytest.importorskip("jax2onnx", reason=NO_EXTRA)
    onnxruntime = pytest.importorskip("onnxruntime", reason=NO_EXTRA)
    folder, network = weights
    classifier = "main" if input_kind == "uint8" else "branch1"
    file = tmp_path / "own.onnx"
    flags = [f"--classifier={classifier}", f"--input={input_kind}", f"--output_kind={output_kind}"]
    assert exports(folder, file, *flags) == 0
    assert list(tmp_path.iterdir()) == [file]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (images,), (output,) = session.get_inputs(), session.get_outputs()
    assert images.shape == ["batch", 8, 8, 3]
    assert output.shape == ["batch", 7]
    assert (images.name, output.name) == ("images", output_kind)
    run = lambda batch: session.run(None, {"images": batch})[0]  # noqa: E731
    assert_computes(run, network, classifier, input_kind, output_kind)
    metadata = session.get_modelmeta().custom_metadata_map
    described = {name: json.loads(value) for name, value in metadata.items()}
    assert_describes(described, classifier, input_kind, output_kind)


def test_an_operation_that_onnx_lacks_is_named(weights, tmp_path, monkeypatch, capsys):
    jax2onnx = pytest.importorskip("jax2onnx", reason=NO_EXTRA)

    def convert(*arguments, **names):
        raise NotImplementedError("No plugins registered for primitive 'odd'")

    monkeypatch.setattr(jax2onnx, "to_onnx", convert)
    assert exports(weights[0], tmp_path / "own.onnx") == 2
    error = user_error(capsys, alone=True)
    assert "'odd'" in error
    assert ".stablehlo" in error
    assert list(tmp_path.iterdir()) == []


def save_image(path, seed=0):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)).save(path)
    return path


def test_the_file_is_checked_on_the_given_images(weights, tmp_path, monkeypatch, capsys):
    seen = []

    def read(file):
        run = whole(file)
        return lambda images: (seen.append(images), run(images))[1]

    whole = stablehlo.read
    monkeypatch.setattr(stablehlo, "read", read)
    path = save_image(tmp_path / "image.png")
    assert exports(weights[0], tmp_path / "own.stablehlo", "--check", str(path)) == 0
    with Image.open(path) as image:
        expected = np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC))
    # One image alone would not show that other batches work.
    assert [len(images) for images in seen] == [1, 2]
    assert all(np.array_equal(image, expected) for images in seen for image in images)
    assert "batches of 1 and 2" in capsys.readouterr().out


@pytest.mark.parametrize("offset", [1e-3, np.nan])
def test_a_file_that_computes_something_else_leaves_what_was_there(
    offset, weights, tmp_path, monkeypatch, capsys
):
    file, beside = tmp_path / "own.stablehlo", tmp_path / "own.stablehlo.json"
    file.write_text("old")
    beside.write_text("old")
    whole = stablehlo.read
    largest = np.abs(by_hand(weights[1], IMAGES, "main", "logits")).max()
    monkeypatch.setattr(stablehlo, "read", lambda file: lambda images: whole(file)(images) + offset * largest)
    assert exports(weights[0], file) == 2
    assert "0.0001" in user_error(capsys, alone=True)
    assert file.read_text() == beside.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


@needs_root
@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("stuck", ["own.stablehlo", "own.stablehlo.json"])
def test_program_and_description_appear_together_or_not_at_all(stuck, before, weights, tmp_path, capsys):
    files = {name: tmp_path / name for name in ("own.stablehlo", "own.stablehlo.json")}
    for name, path in files.items():
        if before or name == stuck:
            path.write_text("old")
    subprocess.run(["chattr", "+i", files[stuck]], check=True)
    try:
        assert exports(weights[0], files["own.stablehlo"]) == 2
    finally:
        subprocess.run(["chattr", "-i", files[stuck]], check=True)
    assert "not permitted" in user_error(capsys, alone=True)
    assert {path.name for path in tmp_path.iterdir()} == ({*files} if before else {stuck})
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"}


@needs_root
@pytest.mark.parametrize("fits", ["nothing", "the program"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(fits, weights, small_disk, tmp_path, capsys):
    stablehlo.write(tmp_path / "program", Exported(load_weights(weights[0])))
    pages = -(-(tmp_path / "program").stat().st_size // mmap.PAGESIZE)
    disk = small_disk(1)
    room = mmap.PAGESIZE * (pages if fits == "the program" else pages - 1)
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - room))
    assert exports(weights[0], disk / "own.stablehlo") == 2
    error = user_error(capsys, alone=True)
    assert "No space left on device" in error
    assert "own.stablehlo" in error
    assert [path.name for path in disk.iterdir()] == ["ballast"]


WRONG = {
    "an unknown ending": (["--output=own.tflite"], ".stablehlo, .onnx, .safetensors or .pth", "own.tflite"),
    "an absent folder": (["--output=nowhere/own.onnx"], "`--output`", "nowhere"),
    "a folder": (["--output=folder.pth"], "`--output`", "folder.pth is a folder"),
    "an unknown classifier": (["--classifier=branch3"], "branch1, branch2, main", "'branch3'"),
    "an absent image": (["--check", "nowhere.png"], "nowhere.png"),
    "an unreadable image": (["--check", "whole.png", "broken.png"], "`--check`", "broken.png"),
    "an unknown input": (["--input=int8"], "uint8", "float", "'int8'"),
    "no weights": (["--weights=."], "holds no weights"),
    "weights alone with an input": (["--output=own.pth", "--input=float"], "`--input`", "float"),
    "weights alone of a branch": (["--output=own.safetensors", "--classifier=branch1"], "branch1"),
    "a missing package": (["--output=own.onnx"], "jax2onnx", "pip install 'dks-jax[export]'"),
    "no flatbuffers": (["--output=own.stablehlo"], "flatbuffers", "pip install 'dks-jax[export]'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_is_one_sentence_and_leaves_nothing(wrong, weights, tmp_path, monkeypatch, capsys):
    arguments, *named = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    save_image(tmp_path / "whole.png")
    before = sorted(tmp_path.iterdir())
    if "package" in wrong or "flatbuffers" in wrong:
        monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert exports(weights[0], "own.stablehlo", *arguments) == 2
    error = user_error(capsys, alone=True)
    assert all(part in error for part in named), error
    assert sorted(tmp_path.iterdir()) == before


def test_kinds_that_are_not_there_are_refused(weights):
    own = load_weights(weights[0])
    with pytest.raises(InputError, match=r"`input`.*uint8, float.*'int8'"):
        Exported(own, input="int8")
    with pytest.raises(InputError, match=r"`output_kind`.*logits, probabilities.*'classes'"):
        Exported(own, output="classes")


def test_weights_without_a_head_are_refused(weights, tmp_path, capsys):
    copy = shutil.copytree(weights[0], tmp_path / "weights")
    metadata = json.loads((copy / METADATA).read_text()) | {"class_names": []}
    (copy / METADATA).write_text(json.dumps(metadata))
    assert exports(copy, tmp_path / "own.stablehlo") == 2
    assert "head" in user_error(capsys, alone=True)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
