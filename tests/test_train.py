"""The command line: a run's files, resuming, divergence, and one sentence for every wrong input."""

import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from dks_jax import train, workdir
from dks_jax.checkpoint import load_network, load_weights
from dks_jax.data import cifar, digits
from dks_jax.data.augment import normalise

CONFIGS = Path(__file__).parent.parent / "configs"
DIGITS = f"--config={CONFIGS / 'digits_wrn.py'}"
# 100 training digits in batches of 64 and 36; 20 held-out ones.
SMALL = ["--config.data.train_per_class=10", "--config.data.test_per_class=2", "--config.epochs=3"]
SMALL += ["--config.checkpoint_every_epochs=1", "--config.data.drop_last=False"]


def run(workdir, *arguments):
    return train.main([DIGITS, *SMALL, f"--workdir={workdir}", *arguments])


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_speed(record):
    return {name: value for name, value in record.items() if name != "images_per_second"}


def last_checkpoint(workdir):
    manager = ocp.CheckpointManager((workdir / "checkpoints").resolve())
    state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
    manager.close()
    return state


def assert_same_bits(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same_bits(a[name], b[name])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_same_bits(x, y)
    elif a is not None:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The workdir of a whole run."""
    workdir = tmp_path_factory.mktemp("runs") / "unbroken"
    assert run(workdir) == 0
    return workdir


def test_a_run_leaves_its_files(unbroken):
    expected = {"config.json", "metrics.jsonl", "curves.png", "checkpoints", "weights"}
    found = {path.name for path in unbroken.iterdir()}
    assert expected <= found
    assert any(name.startswith("events.out.tfevents") for name in found)
    assert not [name for name in found if "partial" in name]
    with Image.open(unbroken / "curves.png") as image:
        assert min(image.size) > 300


def test_config_json_tells_config_versions_devices_and_commit(unbroken):
    description = json.loads((unbroken / "config.json").read_text())
    assert description["config"]["method"] == "dks"
    assert description["config"]["epochs"] == 3
    assert {"jax", "flax", "optax", "dks-jax", "python"} <= description["versions"].keys()
    assert description["devices"]
    assert description["commit"]


def test_metrics_have_a_line_per_epoch_and_split(unbroken):
    lines = records(unbroken)
    assert [(line["epoch"], line["split"], line["step"]) for line in lines] == [
        (epoch, split, 2 * epoch) for epoch in (1, 2, 3) for split in ("train", "test")
    ]
    for line in lines:
        terms = [value for name, value in line.items() if name.startswith(("cross_entropy/", "kl/"))]
        assert len(terms) == 9
        assert line["loss"] == pytest.approx(sum(terms), rel=1e-4)
        assert line["error"] == line["error/main"]
        assert {"error/branch1", "error/branch2", "learning_rate", "images_per_second"} <= line.keys()
        # A whole number of wrong answers among 100 or 20.
        assert (line["error"] / 100 * (100 if line["split"] == "train" else 20)) == pytest.approx(
            round(line["error"] / 100 * (100 if line["split"] == "train" else 20))
        )


def test_tensorboard_events_hold_the_same_figures(unbroken):
    # A TFRecord: length, checksum of the length, event, checksum of the event; float values stand in the
    # event as a little-endian float32 after the field tag 0x15 (simple_value).
    (file,) = unbroken.glob("events.out.tfevents*")
    content = file.read_bytes()
    events = []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        events.append(content[12 : 12 + length])
        content = content[16 + length :]
    for line in records(unbroken):
        for name in line.keys() - {"step", "epoch", "split"}:
            wanted = b"\x15" + struct.pack("<f", line[name])
            tag = f"{line['split']}/{name.replace('->', '_to_')}".encode()
            assert any(tag in event and wanted in event for event in events), name


def test_weights_are_the_backbone_and_classify(unbroken):
    arrays = ocp.StandardCheckpointer().restore((unbroken / "weights").resolve())
    assert arrays.keys() == {"params", "batch_stats"}
    assert not [name for name in arrays["params"] if name.startswith("branches")]
    trained = last_checkpoint(unbroken)["params"]
    for name, value in arrays["params"].items():
        np.testing.assert_array_equal(value, trained[name])

    network, metadata = load_network(unbroken / "weights")
    assert metadata["class_names"] == [str(i) for i in range(10)]
    test = digits.load(0).test
    kept = np.sort(np.concatenate([np.flatnonzero(test.labels == label)[:2] for label in range(10)]))
    preprocessing = metadata["preprocessing"]
    images = normalise(test.images[kept], preprocessing["mean"], preprocessing["std"])
    error = 100 * np.mean(np.argmax(network(images)[-1], axis=-1) != test.labels[kept])
    assert error == pytest.approx(records(unbroken)[-1]["error"])


@pytest.mark.parametrize("finished_epochs", [1, 2])
def test_a_run_cut_after_an_epoch_and_resumed_equals_the_unbroken_one(
    unbroken, tmp_path, monkeypatch, capsys, finished_epochs
):
    whole_epoch = train.train_epoch

    def cut(run, state, epoch, *rest):
        if epoch == finished_epochs:
            raise KeyboardInterrupt
        return whole_epoch(run, state, epoch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_epoch", cut)
        assert run(tmp_path / "cut") == 130
    assert "goes on" in capsys.readouterr().err
    assert len(records(tmp_path / "cut")) == 2 * finished_epochs
    assert not (tmp_path / "cut" / "weights").exists()
    assert run(tmp_path / "cut") == 0
    assert f"going on after epoch {finished_epochs}" in capsys.readouterr().out
    assert_same_bits(last_checkpoint(tmp_path / "cut"), last_checkpoint(unbroken))
    resumed, expected = records(tmp_path / "cut"), records(unbroken)
    assert [without_speed(line) for line in resumed] == [without_speed(line) for line in expected]


def test_epochs_after_the_last_checkpoint_are_repeated_in_the_log(unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path / "copy")
    manager = ocp.CheckpointManager((tmp_path / "copy" / "checkpoints").resolve())
    manager.delete(6)
    manager.close()
    with (tmp_path / "copy" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "cut sh')
    assert run(tmp_path / "copy") == 0
    repeated, expected = records(tmp_path / "copy"), records(unbroken)
    assert [without_speed(line) for line in repeated] == [without_speed(line) for line in expected]
    assert_same_bits(last_checkpoint(tmp_path / "copy"), last_checkpoint(unbroken))


def test_a_finished_run_started_again_says_its_result(unbroken, capsys):
    before = (unbroken / "metrics.jsonl").read_text()
    assert run(unbroken) == 0
    assert "result: test error" in capsys.readouterr().out
    assert (unbroken / "metrics.jsonl").read_text() == before


def test_the_default_workdir_names_config_method_and_seed():
    _, folder = train.parse([f"{DIGITS}:ds", "--config.seed=5"])
    assert folder == Path("runs/digits_wrn-ds-seed5")


@pytest.mark.parametrize("method", ["ds", "baseline", "top_down", "bottom_up"])
def test_every_method_trains(method, tmp_path):
    assert train.main([f"{DIGITS}:{method}", *SMALL, "--config.epochs=1", f"--workdir={tmp_path}"]) == 0
    line = records(tmp_path)[0]
    crosses = sum(value for name, value in line.items() if name.startswith("cross_entropy/"))
    taught = {
        "ds": [],
        "baseline": [],
        "top_down": ["main->branch1", "main->branch2", "branch2->branch1"],
        "bottom_up": ["branch1->main", "branch2->main", "branch1->branch2"],
    }[method]
    assert line["loss"] == pytest.approx(crosses + sum(line[f"kl/{pair}"] for pair in taught), rel=1e-4)
    assert ("error/branch1" in line) == (method != "baseline")


def test_divergence_names_step_and_terms_and_writes_no_weights(tmp_path, capsys):
    status = run(
        tmp_path / "run",
        "--config.optimizer.learning_rate=1e30",
        "--config.optimizer.warmup_epochs=0",
        "--config.data.batch_size=20",
    )
    assert status == 2
    error = capsys.readouterr().err
    assert re.search(r"diverged at step [2-5] \(epoch 1\): .*cross_entropy/main = (nan|inf)", error)
    assert error.count("\n") == 1
    assert "optimizer.learning_rate" in error
    assert not (tmp_path / "run" / "weights").exists()


# Overrides of digits_wrn, and what the sentence says.
WRONG_FIELDS = {
    "unknown field": ("optimizer.learning_rat=1", "the closest one is `optimizer.learning_rate`"),
    "a group of fields": ("data=3", "has no field `data`"),
    "unknown source": (
        "data.source=mnist",
        "`data.source` must be one of digits, cifar, folder; got 'mnist'",
    ),
    "unknown model": ("model.name=vgg", "`model.name` must be one of wide_resnet; got 'vgg'"),
    "unknown method": ("method=kd", "must be one of dks, ds, baseline, top_down, bottom_up; got 'kd'"),
    "precision": ("precision=float16", "`precision` must be one of float32, bfloat16"),
    "depth 30": ("model.depth=30", "must be 6n+4 with n >= 2, e.g. 16, 22, 28 or 40; got 30"),
    "depth 16.0": ("model.depth=16.0", "`--config.model.depth` must be of type int, e.g. 16; got '16.0'"),
    "width 0": ("model.width=0", "`width` of a wide ResNet must be 1 or more"),
    "dropout 1": ("model.dropout=1", "`dropout` must be a rate from 0 to below 1"),
    "negative epochs": ("epochs=-1", "`epochs` must be 1 or more and at most 1000000000; got -1"),
    "no epochs": ("epochs=0", "`epochs` must be 1 or more"),
    "text as a number": ("epochs=ten", "`--config.epochs` must be of type int, e.g. 40; got 'ten'"),
    "a fraction as a count": ("epochs=1.5", "must be of type int"),
    "an expression": ("epochs=1+1", "must be of type int"),
    "an endless expression": (f"epochs={'-' * 20000}1", "must be of type int"),
    "nothing": ("epochs=", "must be of type int"),
    "batch 0": ("data.batch_size=0", "`data.batch_size` must be 1 or more"),
    "a number as a switch": ("data.flip=2", "must be of type bool"),
    "seed": ("seed=4294967296", "`seed` must be 0 or more and at most 4294967295"),
    "negative seed": ("seed=-1", "`seed` must be 0 or more"),
    "channels": ("data.mean=(0.5,0.5,0.5)", "`data.mean` must hold one number for each of the 1 channels"),
    "a number as a tuple": ("data.mean=0.5", "`--config.data.mean` must be of type tuple, e.g. (0.305,)"),
    "texts in a tuple": ("data.mean=('a',)", "`data.mean` must be of type a tuple of float"),
    "no spread": ("data.std=(0,)", "`data.std` must be above 0 and finite; got (0,)"),
    "infinity in a tuple": ("data.mean=(1e400,)", "`data.mean` must be finite; got (inf,)"),
    "pad mode": ("data.pad_mode=wrap", "`data.pad_mode` must be one of reflect, zero; got 'wrap'"),
    "padding": ("data.padding=8", "`data.padding` must be below the image size, 8; got 8"),
    "image size": ("data.image_size=16", "`data.image_size` must be 8 for the source digits"),
    "too many per class": ("data.train_per_class=1000", "`data.train_per_class` must be at most 139"),
    "schedule": ("optimizer.schedule=exp", "`optimizer.schedule` must be 'step' or 'cosine'"),
    "infinite rate": (
        "optimizer.learning_rate=1e999",
        "`optimizer.learning_rate` must be 0 or more and finite",
    ),
    "a rate of 400 digits": (f"optimizer.learning_rate=1{'0' * 400}", "must be of type float"),
    "momentum 1": ("optimizer.momentum=1", "`optimizer.momentum` must be 0 or more and at most 0.9"),
    "texts as epochs": (
        "optimizer.drop_epochs=('a',)",
        "`optimizer.drop_epochs` must be of type a tuple of int",
    ),
    "fractions as epochs": ("optimizer.drop_epochs=(1.5,)", "must be of type a tuple of int"),
    "epoch 0": ("optimizer.drop_epochs=(0,)", "`optimizer.drop_epochs` must be 1 or more"),
    "drops with cosine": ("optimizer.drop_epochs=(2,)", "must be () where the schedule is cosine"),
    "warm-up without end": ("optimizer.warmup_epochs=40", "must be below `epochs`, 40; got 40.0"),
    "temperature 0": ("synergy.temperature=0", "`synergy.temperature` must be above 0"),
    "absent folder": ("data.source=folder data.mean=(0,0,0) data.std=(1,1,1)", "there is no folder ''"),
    "norm groups": (
        "norm_groups=2 data.drop_last=False",
        "which is no multiple of `norm_groups`, 2: set data.drop_last=True",
    ),
    "too few images": ("data.batch_size=2000", "must be at most 1437, the number of training images"),
    "unknown data set": (
        "data.source=cifar data.name=svhn data.image_size=32 data.mean=(0,0,0) data.std=(1,1,1)",
        "`data.name` must be one of cifar10, cifar100; got 'svhn'",
    ),
}

WRONG = {
    "method after the colon": ([f"{DIGITS}:kd"], "got 'kd'"),
    "unknown flag": ([DIGITS, "--steps=3"], "Unrecognized arguments: --steps=3"),
    "field without value": ([DIGITS, "--config.epochs"], "Unrecognized arguments: --config.epochs"),
    "no config": ([], "--config"),
    "absent config": (["--config=configs/none.py"], "there is no configs/none.py"),
    "absent config with method": (["--config=configs/none.py:ds"], "there is no configs/none.py"),
    "a folder as config": ([f"--config={CONFIGS}"], f"there is no {CONFIGS}"),
    "empty workdir": ([DIGITS, "--workdir="], "`--workdir` must name a folder"),
    "too long a name": ([DIGITS, f"--workdir={'x' * 300}"], "File name too long"),
} | {
    name: ([DIGITS, *(f"--config.{field}" for field in fields.split(" "))], sentence)
    for name, (fields, sentence) in WRONG_FIELDS.items()
}


@pytest.mark.parametrize(("arguments", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_gets_one_sentence_and_leaves_nothing_behind(
    arguments, sentence, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert train.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert sentence in captured.err
    assert list(tmp_path.iterdir()) == []


def test_an_absent_cifar_without_network_says_which_file_to_put_where(tmp_path, monkeypatch, capsys):
    # Nothing listens on port 1 of this machine.
    url = "http://127.0.0.1:1/cifar-100-python.tar.gz"
    monkeypatch.setitem(cifar.ARCHIVES, "cifar100", cifar.Archive(url, "0" * 32))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    root = tmp_path / "data"
    config = CONFIGS / "cifar100_wrn.py"
    assert (
        train.main([f"--config={config}", f"--config.data.root={root}", f"--workdir={tmp_path / 'run'}"]) == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 or error.splitlines()[-1].startswith("error: ")
    assert f"{root / 'cifar-100-python.tar.gz'} is absent" in error
    assert f"download {url} elsewhere and put the file into {root}" in error
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_model_is_named_before_data_are_downloaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cifar, "load", lambda *arguments: pytest.fail("the data were loaded"))
    assert train.main([f"--config={CONFIGS / 'cifar100_wrn.py'}", "--config.model.depth=30"]) == 2
    assert "got 30" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["--config.data.drop_last=False"],
            "The last batch of an epoch holds 29 of the 1437 training images, which is no multiple of the "
            "number of devices, 4: set data.drop_last=True or another data.batch_size.",
        ),
        (
            ["--config.data.batch_size=30"],
            "`data.batch_size` must be a multiple of the number of devices, 4; got 30.",
        ),
    ],
)
def test_batches_that_do_not_divide_by_the_devices_are_refused(overrides, sentence, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "dks_jax.train", DIGITS, *overrides],
        cwd=tmp_path,
        env=os.environ | FOUR_DEVICES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == f"error: {sentence}\n"
    assert list(tmp_path.iterdir()) == []


FOUR_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}


def test_a_run_on_four_devices_goes_on_on_one(tmp_path):
    # One step an epoch, of 64 images; 20 held-out images, a partial batch.
    arguments = [DIGITS, *SMALL, "--config.data.drop_last=True", "--config.epochs=2"]
    arguments.append(f"--workdir={tmp_path / 'run'}")
    program = f"""
import sys
from dks_jax import train
whole_epoch = train.train_epoch
def cut(run, state, epoch, *rest):
    if epoch == 1:
        raise KeyboardInterrupt
    return whole_epoch(run, state, epoch, *rest)
train.train_epoch = cut
sys.exit(train.main({arguments}))
"""
    cut = subprocess.run([sys.executable, "-c", program], env=os.environ | FOUR_DEVICES, check=False)
    assert cut.returncode == 130
    assert train.main(arguments) == 0
    description = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [len(start["devices"]) for start in (description, *description["resumed"])] == [4, 1]
    assert [line["epoch"] for line in records(tmp_path / "run")] == [1, 1, 2, 2]


def test_weights_saved_on_four_devices_load_on_one(tmp_path):
    program = f"""
import pathlib
import jax.numpy as jnp
from dks_jax.checkpoint import save_weights
from dks_jax.steps import Devices
arrays = Devices().replicate({{"w": jnp.arange(3.0)}})
save_weights(pathlib.Path({str(tmp_path / "weights")!r}), arrays, {{}}, {{}})
"""
    subprocess.run([sys.executable, "-c", program], env=os.environ | FOUR_DEVICES, check=True)
    params, _, _ = load_weights(tmp_path / "weights")
    np.testing.assert_array_equal(params["w"], [0, 1, 2])


@pytest.mark.slow
def test_the_digits_end_below_three_percent(tmp_path):
    assert train.main([DIGITS, f"--workdir={tmp_path}"]) == 0
    assert records(tmp_path)[-1]["error"] < 3


@pytest.fixture
def image_folder(tmp_path):
    """Two classes of two training images and one held-out image."""
    random = np.random.default_rng(0)
    for name in ("train/a/1", "train/a/2", "train/b/1", "train/b/2", "test/a/1", "test/b/1"):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (10, 12, 3), np.uint8)).save(path)
    return tmp_path / "images"


def train_on(folder, workdir):
    fields = ["source=folder", f"root={folder}", "mean=(0.5,0.5,0.5)", "std=(0.25,0.25,0.25)", "batch_size=4"]
    return train.main(
        [DIGITS, "--config.epochs=1", f"--workdir={workdir}", *(f"--config.data.{field}" for field in fields)]
    )


def test_a_folder_of_own_images_trains(image_folder, tmp_path):
    assert train_on(image_folder, tmp_path / "run") == 0
    assert math.isfinite(records(tmp_path / "run")[0]["loss"])
    metadata = json.loads((tmp_path / "run" / "weights" / "metadata.json").read_text())
    assert metadata["class_names"] == ["a", "b"]


@pytest.mark.parametrize("damage", ["unreadable image", "class without images", "folder without classes"])
def test_a_damaged_folder_is_named_and_leaves_nothing_behind(image_folder, tmp_path, capsys, damage):
    if damage == "unreadable image":
        (image_folder / "train/b/2.png").write_bytes(b"no image")
        named = "train/b/2.png"
    elif damage == "class without images":
        (image_folder / "train/c").mkdir()
        named = "train/c"
    else:
        shutil.rmtree(image_folder / "train")
        (image_folder / "train").mkdir()
        named = "train"
    assert train_on(image_folder, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(image_folder / named) in error
    assert not (tmp_path / "run").exists()


def test_the_workdir_of_another_config_is_refused_and_left_alone(unbroken, capsys):
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    assert run(unbroken, "--config.seed=1", "--config.optimizer.learning_rate=0.2") == 2
    error = capsys.readouterr().err
    assert "optimizer.learning_rate was 0.1 and is 0.2; seed was 0 and is 1" in error
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")} == before


@pytest.mark.parametrize("config_json", [None, "{}", '{"config": ', "[]"])
def test_a_workdir_with_other_files_is_refused_and_left_alone(config_json, tmp_path, capsys):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "precious.npz").write_text("do not lose")
    if config_json:
        (tmp_path / "config.json").write_text(config_json)
    assert run(tmp_path) == 2
    assert "holds files, but no config.json of a run" in capsys.readouterr().err
    assert (tmp_path / "weights" / "precious.npz").read_text() == "do not lose"


def test_other_data_in_the_workdir_of_a_run_are_refused(image_folder, tmp_path, capsys):
    assert train_on(image_folder, tmp_path / "run") == 0
    shutil.copy(image_folder / "train/a/1.png", image_folder / "train/a/3.png")
    assert train_on(image_folder, tmp_path / "run") == 2
    assert "other data (train_images was 4 and is 5)" in capsys.readouterr().err


def test_another_start_is_added_to_config_json(unbroken, tmp_path, monkeypatch):
    shutil.copytree(unbroken, tmp_path / "copy")
    before = json.loads((unbroken / "config.json").read_text())
    monkeypatch.setattr(workdir, "_commit", lambda: "another")
    assert run(tmp_path / "copy") == 0
    after = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert [start["commit"] for start in after.pop("resumed")] == ["another"]
    before.pop("resumed")
    assert after == before


def test_lost_curves_are_drawn_again(unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path / "copy")
    (tmp_path / "copy" / "curves.png").unlink()
    (tmp_path / "copy" / "checkpoints" / "99.orbax-checkpoint-tmp").mkdir()
    assert run(tmp_path / "copy") == 0
    assert (tmp_path / "copy" / "curves.png").exists()
    assert not list((tmp_path / "copy" / "checkpoints").glob("99*"))


def test_a_file_as_workdir_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(tmp_path / "file") == 2
    assert "`--workdir` must be a folder" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(tmp_path / "file" / "below") == 2
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 +", "fails with SyntaxError"),
        ("x = 1", "fails with KeyError: 'get_config'"),
        ("def get_config(method=''): return {}", "must return an ml_collections.ConfigDict"),
        (
            "import ml_collections\ndef get_config(method=''): return ml_collections.ConfigDict({'seed': 0})",
            "The config lacks the field `method`",
        ),
    ],
)
def test_a_broken_config_file_is_named(text, sentence, tmp_path, capsys):
    (tmp_path / "broken.py").write_text(text)
    assert train.main([f"--config={tmp_path / 'broken.py'}", f"--workdir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_shipped_config_is_complete(config):
    for method in ("dks", "ds", "baseline", "top_down", "bottom_up"):
        loaded, _ = train.parse([f"--config={config}:{method}"])
        assert loaded.method == method
        # The published values of the method are every config's defaults.
        assert dict(loaded.synergy) == {"alpha": 1.0, "temperature": 1.0, "epsilon": 1e-8}
