"""One sentence, exit status 2 and nothing left behind for every wrong input."""

import os
import shutil
import subprocess
import sys

import pytest

from dks_jax import train
from dks_jax.data import cifar
from runs import CONFIGS, DIGITS, FOUR_DEVICES, run, train_on

# Overrides of digits_wrn, and what the sentence says.
WRONG_FIELDS = {
    "unknown field": ("optimizer.learning_rat=1", "the closest one is `optimizer.learning_rate`"),
    "a group of fields": ("data=3", "`data` is a group of fields; set one of data.batch_size, "),
    "unknown source": (
        "data.source=mnist",
        "`data.source` must be one of digits, cifar, folder, tfds; got 'mnist'",
    ),
    "unknown model": (
        "model.name=vgg",
        "`model.name` must be one of wide_resnet, resnet18, resnet34, resnet50",
    ),
    "unknown method": ("method=kd", "must be one of dks, ds, baseline, top_down, bottom_up; got 'kd'"),
    "precision": ("precision=float16", "`precision` must be one of float32, bfloat16"),
    "depth 30": ("model.depth=30", "must be 6n+4 with n >= 2, e.g. 16, 22, 28 or 40; got 30"),
    "depth 16.0": ("model.depth=16.0", "`model.depth` must be of type int; got 16.0"),
    "width 0": ("model.width=0", "`width` of a wide ResNet must be 1 or more"),
    "dropout 1": ("model.dropout=1", "`dropout` must be a rate from 0 to below 1"),
    "negative epochs": ("epochs=-1", "`epochs` must be at least 1 and at most 1000000000; got -1"),
    "no epochs": ("epochs=0", "`epochs` must be at least 1"),
    "text as a number": ("epochs=ten", "`--config.epochs` must be of type int, e.g. 40; got 'ten'"),
    "a fraction as a count": ("epochs=1.5", "must be of type int"),
    "an expression": ("epochs=1+1", "must be of type int"),
    "an endless expression": (f"epochs={'-' * 20000}1", "must be of type int"),
    "nothing": ("epochs=", "must be of type int"),
    "batch 0": ("data.batch_size=0", "`data.batch_size` must be at least 1"),
    "a number as a switch": ("data.flip=2", "must be of type bool"),
    "seed": ("seed=4294967296", "`seed` must be at least 0 and at most 4294967295"),
    "negative seed": ("seed=-1", "`seed` must be at least 0"),
    "channels": ("data.mean=(0.5,0.5,0.5)", "`data.mean` must hold one number for each of the 1 channels"),
    "a number as a tuple": ("data.mean=0.5", "`--config.data.mean` must be of type tuple, e.g. (0.305,)"),
    "texts in a tuple": ("data.mean=('a',)", "`data.mean` must be a tuple of float"),
    "no spread": ("data.std=(0,)", "`data.std` must be above 0; got (0,)"),
    "infinity in a tuple": ("data.mean=(1e400,)", "`data.mean` must be finite; got (inf,)"),
    "pad mode": ("data.pad_mode=wrap", "`data.pad_mode` must be one of reflect, zero; got 'wrap'"),
    "padding": ("data.padding=8", "`data.padding` must be below the image size, 8; got 8"),
    "preprocessing": (
        "data.preprocessing=crop",
        "`data.preprocessing` must be one of squash, dks, standard; got 'crop'",
    ),
    "random crops of digits": (
        "data.random_resized_crop=True",
        "`data.random_resized_crop` must be False for the source digits, whose images are in memory; "
        "got True",
    ),
    "colours of a folder in memory": (
        "data.source=folder data.root=. data.color_jitter=0.4",
        "`data.color_jitter` must be 0 where images are decoded once, or set data.streamed=True; got 0.4",
    ),
    "two random crops": (
        "data.source=folder data.root=. data.streamed=True data.random_resized_crop=True",
        "`data.padding` must be 0 where `data.random_resized_crop` is set, which is the crop then; got 1",
    ),
    "too much colour": (
        "data.color_jitter=1.5",
        "`data.color_jitter` must be at least 0 and at most 1; got 1.5",
    ),
    "no image size": ("data.image_size=0", "`data.image_size` must be at least 1 and at most 100000; got 0"),
    "image size": ("data.image_size=16", "`data.image_size` must be 8 for the source digits"),
    "too many per class": ("data.train_per_class=1000", "`data.train_per_class` must be at most 139"),
    "schedule": ("optimizer.schedule=exp", "`optimizer.schedule` must be 'step' or 'cosine'"),
    "infinite rate": (
        "optimizer.learning_rate=1e999",
        "`optimizer.learning_rate` must be at least 0; got inf",
    ),
    "a rate of 400 digits": (f"optimizer.learning_rate=1{'0' * 400}", "must be of type float"),
    "momentum 1": ("optimizer.momentum=1", "`optimizer.momentum` must be at least 0 and below 1; got 1.0"),
    "texts as epochs": (
        "optimizer.drop_epochs=('a',)",
        "`optimizer.drop_epochs` must be a tuple of int",
    ),
    "fractions as epochs": ("optimizer.drop_epochs=(1.5,)", "must be a tuple of int"),
    "epoch 0": ("optimizer.drop_epochs=(0,)", "`optimizer.drop_epochs` must be at least 1"),
    "drops with cosine": ("optimizer.drop_epochs=(2,)", "must be () where the schedule is cosine"),
    "warm-up without end": ("optimizer.warmup_epochs=40", "must be below `epochs`, 40; got 40.0"),
    "temperature 0": ("synergy.temperature=0", "`synergy.temperature` must be above 0"),
    "no root": ("data.source=folder data.image_size=8", "`data.root` must name the folder of the data"),
    "absent folder": (
        "data.source=folder data.root=nowhere data.mean=(0,0,0) data.std=(1,1,1)",
        "there is no folder 'nowhere'",
    ),
    "norm groups": (
        "norm_groups=2 data.drop_last=False",
        "which is no multiple of `norm_groups`, 2: set data.drop_last=True",
    ),
    "too few images": ("data.batch_size=2000", "must be at most 1437, the number of training images"),
    "streamed digits": (
        "data.streamed=True",
        "`data.streamed` must be False for the source digits, whose images are in memory",
    ),
    "part of streamed tfds": (
        "data.source=tfds data.streamed=True data.train_per_class=3",
        "`data.train_per_class` must be 0 where tfds is streamed, since only reading tells the classes; got "
        "3",
    ),
    "tfds not prepared": (
        "data.source=tfds data.name=cifar100 data.root=.",
        "run python tools/prepare_dataset.py cifar100 --data_dir .",
    ),
    "tfds without a name": ("data.source=tfds data.root=.", "`data.name` must be a name of tfds"),
    "negative minutes": (
        "checkpoint_every_minutes=-1",
        "`checkpoint_every_minutes` must be at least 0; got -1",
    ),
    "negative norm": ("optimizer.clip_norm=-0.5", "`optimizer.clip_norm` must be at least 0; got -0.5"),
    "preprocessing of images that are not resized": (
        "data.preprocessing=dks",
        "`data.preprocessing` must be squash for the source digits, whose images have their size; got 'dks'",
    ),
    "weights that are not there": (
        "init_weights=nowhere",
        "There are no weights at nowhere, which is absent; give the workdir of a finished run",
    ),
    "unknown data set": (
        "data.source=cifar data.root=. data.name=svhn data.image_size=32 data.mean=(0,0,0) data.std=(1,1,1)",
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
    "a part of a job": (
        [DIGITS, "--num_processes=2"],
        "`--coordinator` (or JAX_COORDINATOR_ADDRESS) must be given with `--num_processes`",
    ),
    "a coordinator without port": (
        [DIGITS, "--coordinator=host", "--num_processes=2", "--process_id=0"],
        "`--coordinator` must be HOST:PORT of process 0, e.g. 10.0.0.1:1234; got 'host'",
    ),
    "a process beyond the last": (
        [DIGITS, "--coordinator=host:1", "--num_processes=2", "--process_id=2"],
        "`--process_id` must be at least 0 and below --num_processes, 2; got 2",
    ),
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


@pytest.mark.parametrize("config_json", [None, "{}", '{"config": ', "[]", '{"config": null}'])
def test_a_workdir_with_other_files_is_refused_and_left_alone(config_json, tmp_path, capsys):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "precious.npz").write_text("do not lose")
    if config_json:
        (tmp_path / "config.json").write_text(config_json)
    assert run(tmp_path) == 2
    assert ", but no config.json of a run" in capsys.readouterr().err
    assert (tmp_path / "weights" / "precious.npz").read_text() == "do not lose"


@pytest.mark.usefixtures("tiny_model")
def test_other_data_in_the_workdir_of_a_run_are_refused(image_folder, tmp_path, capsys):
    assert train_on(image_folder, tmp_path / "run") == 0
    shutil.copy(image_folder / "train/a/1.png", image_folder / "train/a/3.png")
    assert train_on(image_folder, tmp_path / "run") == 2
    assert "train_images was 4 and is 5): give another --workdir" in capsys.readouterr().err


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
