"""One line, exit status 2 and nothing left behind for every wrong input of training."""

import re

import pytest

from dks_jax import train
from dks_jax.config import flatten
from dks_jax.data.sources import cifar
from dks_jax.models import load_config
from support.runs import CONFIGS, DIGITS, run, train_on, user_error

FOLDER = "data.source=folder data.root=."
# Overrides of digits_wrn, and what the sentence names: the field, what is accepted, what was given.
WRONG_FIELDS = [
    ("optimizer.learning_rat=1", "`optimizer.learning_rat`", "`optimizer.learning_rate`"),
    ("optimizer.lr=0.1", "`optimizer.lr`", "`optimizer.learning_rate`"),
    ("lr=0.1", "`lr`", "`optimizer.learning_rate`"),
    ("learning_rate=0.1", "`learning_rate`", "`optimizer.learning_rate`"),
    ("data=3", "`data`", "data.batch_size"),
    # One of several words.
    ("method=kd", "`method`", "dks, ds, baseline, top_down, bottom_up", "'kd'"),
    ("precision=float16", "`precision`", "float32, bfloat16", "'float16'"),
    ("data.source=mnist", "`data.source`", "digits, cifar, folder, tfds", "'mnist'"),
    ("data.pad_mode=wrap", "`data.pad_mode`", "reflect, zero", "'wrap'"),
    ("data.preprocessing=crop", "`data.preprocessing`", "squash, dks, standard", "'crop'"),
    ("model.name=vgg", "`model.name`", "wide_resnet, resnet18", "'vgg'"),
    ("optimizer.schedule=exp", "`optimizer.schedule`", "step, cosine, one_cycle", "'exp'"),
    ("optimizer.name=adam", "`optimizer.name`", "sgd, adamw, lamb", "'adam'"),
    ("optimizer.eps=tiny", "optimizer.eps`", "auto", "'tiny'"),
    (
        "data.source=cifar data.root=. data.name=svhn data.image_size=32 data.mean=(0,0,0) data.std=(1,1,1)",
        "`data.name`",
        "cifar10, cifar100",
        "'svhn'",
    ),
    # A number, as it is typed.
    ("epochs=ten", "epochs`", "int", "'ten'"),
    ("epochs=1.5", "epochs`", "int", "'1.5'"),
    ("epochs=1+1", "epochs`", "int", "'1+1'"),
    (f"epochs={'-' * 20000}1", "epochs`", "int"),
    ("epochs=", "epochs`", "int", "''"),
    ("data.flip=2", "`--config.data.flip`", "bool", "'2'"),
    (f"optimizer.learning_rate=1{'0' * 400}", "optimizer.learning_rate`", "float"),
    # Its range.
    ("epochs=0", "`epochs`", "at least 1", "got 0"),
    ("seed=4294967296", "`seed`", "at most 4294967295", "got 4294967296"),
    ("optimizer.learning_rate=1e999", "`optimizer.learning_rate`", "got inf"),
    ("optimizer.momentum=1", "`optimizer.momentum`", "below 1", "got 1.0"),
    ("synergy.temperature=0", "`synergy.temperature`", "above 0"),
    ("data.padding=8", "`data.padding`", "below the image size, 8", "got 8"),
    ("data.train_per_class=1000", "`data.train_per_class`", "at most 139"),
    ("data.batch_size=2000", "`data.batch_size`", "at most 1437", "got 2000"),
    ("model.depth=30", "`depth`", "6n+4", "got 30"),
    ("model.depth=16.0", "model.depth`", "int", "'16.0'"),
    ("model.width=0", "`model.width`", "at least 1"),
    ("model.drop_path=1", "`model.drop_path`", "at least 0 and below 1"),
    ("ema_decay=1", "`ema_decay`", "at least 0 and below 1"),
    ("optimizer.layer_decay=0", "`optimizer.layer_decay`", "above 0"),
    ("model.dropout=1", "`model.dropout`", "at least 0 and below 1"),
    ("data.policy=augmix", "`data.policy`", "one of none, autoaugment_cifar10, ", "'augmix'"),
    ("data.crop_ratio=0", "`data.crop_ratio`", "at least 0.1 and at most 1", "got 0"),
    ("data.interpolation=nearest", "`data.interpolation`", "bilinear, bicubic", "'nearest'"),
    ("data.random_erasing=1.5", "`data.random_erasing`", "at most 1", "got 1.5"),
    ("data.cutout=-1", "`data.cutout`", "at least 0", "got -1"),
    # Several numbers.
    ("data.randaugment=(2,)", "`data.randaugment`", "two numbers", "(2,)"),
    ("data.randaugment=(2,31)", "`data.randaugment`", "at most 30", "got 31"),
    ("data.mean=0.5", "data.mean`", "tuple", "'0.5'"),
    ("data.mean=('a',)", "`data.mean`", "a tuple of float", "('a',)"),
    ("data.mean=(1e400,)", "`data.mean`", "finite", "inf"),
    ("data.mean=(0.5,0.5,0.5)", "`data.mean`", "1 channels"),
    ("data.std=(0,)", "`data.std`", "above 0", "got 0"),
    ("optimizer.drop_epochs=(1.5,)", "`optimizer.drop_epochs`", "a tuple of int"),
    ("optimizer.drop_epochs=(0,)", "`optimizer.drop_epochs`", "at least 1"),
    # What does not go together.
    ("optimizer.schedule=step optimizer.drop_epochs=(5,3)", "`optimizer.drop_epochs`", "(5, 3)"),
    ("optimizer.drop_epochs=(2,)", "`optimizer.drop_epochs`", "cosine"),
    ("optimizer.schedule=step optimizer.warmup_epochs=40", "`optimizer.warmup_epochs`", "below `epochs`, 40"),
    ("optimizer.schedule=one_cycle", "`optimizer.warmup_epochs`", "one_cycle", "got 0.5"),
    ("optimizer.betas=(0.9,)", "`optimizer.betas`", "two numbers", "(0.9,)"),
    ("optimizer.name=adamw optimizer.nesterov=True", "`optimizer.nesterov`", "adamw"),
    ("optimizer.name=lamb optimizer.reset_momentum_at_drops=True", "reset_momentum_at_drops`", "lamb"),
    ("optimizer.nesterov=True optimizer.momentum=0", "`optimizer.momentum`", "above 0", "got 0"),
    ("synergy.branch_warmup=(2,)", "`synergy.branch_warmup`", "two numbers", "(2,)"),
    ("optimizer.warmup_epochs=40", "`optimizer.warmup_epochs`", "below `epochs`, 40"),
    ("norm_groups=2 data.drop_last=False", "`norm_groups`, 2", "data.drop_last=True"),
    ("data.image_size=16", "`data.image_size`", "8 for the source digits"),
    ("data.preprocessing=dks", "`data.preprocessing`", "squash for the source digits", "'dks'"),
    ("data.random_resized_crop=True", "`data.random_resized_crop`", "data.streamed=True", "got True"),
    ("data.policy=trivialaugment", "`data.policy`", "none", "data.streamed=True", "got trivialaugment"),
    ("data.streamed=True data.train_size=4", "`data.train_size`", "data.random_resized_crop=True", "got 4"),
    (f"{FOLDER} data.color_jitter=0.4", "`data.color_jitter`", "data.streamed=True", "got 0.4"),
    (f"{FOLDER} data.streamed=True data.random_resized_crop=True", "`data.padding`", "got 1"),
    ("data.source=tfds data.streamed=True data.train_per_class=3", "`data.train_per_class`", "got 3"),
    ("init_optimizer=True", "`init_optimizer`", "`init_weights`"),
    ("init_weights=x init_optimizer=True optimizer.name=adamw", "`init_optimizer`", "adamw"),
    # What is not there.
    ("data.source=folder", "`data.root`"),
    ("data.source=folder data.root=nowhere data.mean=(0,0,0) data.std=(1,1,1)", "'nowhere'"),
    ("data.source=tfds data.root=.", "`data.name`"),
    ("data.source=tfds data.name=cifar100 data.root=.", "prepare_dataset.py cifar100 --data_dir ."),
    ("init_weights=nowhere", "nowhere"),
]

PLACE = ["--coordinator=host:1", "--num_processes=2", "--process_id=0"]
WRONG = [
    ([f"{DIGITS}:kd"], "`method`", "'kd'"),
    ([DIGITS, "--steps=3"], "--steps=3"),
    ([DIGITS, "--config.epochs"], "--config.epochs"),
    ([], "--config"),
    (["--config=configs/none.py"], "configs/none.py"),
    (["--config=configs/none.py:ds"], "configs/none.py"),
    ([f"--config={CONFIGS}"], f"{CONFIGS}"),
    ([DIGITS, "--workdir="], "`--workdir`"),
    ([DIGITS, f"--workdir={'x' * 300}"], "File name too long"),
    ([DIGITS, "--num_processes=2"], "`--coordinator`", "JAX_COORDINATOR_ADDRESS"),
    ([DIGITS, *PLACE[:1]], "`--num_processes`", "JAX_NUM_PROCESSES"),
    ([DIGITS, *PLACE, "--coordinator=host"], "`--coordinator`", "HOST:PORT", "'host'"),
    ([DIGITS, *PLACE, "--num_processes=two"], "`--num_processes`", "'two'"),
    ([DIGITS, *PLACE, "--process_id=2"], "`--process_id`", "2; got 2"),
    ([DIGITS, *PLACE, "--process_id=-1"], "`--process_id`", "'-1'"),
]
WRONG += [
    ([DIGITS, *(f"--config.{field}" for field in fields.split(" "))], *named)
    for fields, *named in WRONG_FIELDS
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: " ".join(wrong[0][-1:])[-40:])
def test_wrong_input_is_named_and_leaves_nothing_behind(wrong, tmp_path, monkeypatch, capsys):
    arguments, *named = wrong
    monkeypatch.chdir(tmp_path)
    assert train.main(arguments) == 2
    error = user_error(capsys, alone=True)
    assert all(part in error for part in named), error
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_model_is_named_before_data_are_downloaded(monkeypatch, capsys):
    monkeypatch.setattr(cifar, "load", lambda *arguments: pytest.fail("the data were loaded"))
    assert train.main([f"--config={CONFIGS / 'cifar100_wrn.py'}", "--config.model.depth=30"]) == 2
    assert "got 30" in user_error(capsys)


def test_an_unreadable_image_is_named(image_folder, tmp_path, capsys):
    (image_folder / "train/b/2.png").write_bytes(b"no image")
    assert train_on(image_folder, tmp_path / "run") == 2
    assert str(image_folder / "train/b/2.png") in user_error(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("config_json", [None, "{}", '{"config": ', "[]", '{"config": null}'])
def test_a_workdir_with_other_files_is_refused_and_left_alone(config_json, tmp_path, capsys):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "precious.npz").write_text("do not lose")
    if config_json:
        (tmp_path / "config.json").write_text(config_json)
    assert run(tmp_path) == 2
    error = user_error(capsys)
    assert str(tmp_path) in error
    assert "config.json" in error
    assert (tmp_path / "weights" / "precious.npz").read_text() == "do not lose"


def test_a_file_as_workdir_or_above_it_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    for workdir in ("file", "file/below"):
        assert run(tmp_path / workdir) == 2
        assert str(tmp_path / "file") in user_error(capsys)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("1 +", "SyntaxError"),
        ("x = 1", "get_config"),
        ("def get_config(method=''): return {}", "ConfigDict"),
    ],
)
def test_a_broken_config_file_is_named(text, named, tmp_path, capsys):
    file = tmp_path / "broken.py"
    file.write_text(text)
    assert train.main([f"--config={file}", f"--workdir={tmp_path / 'run'}"]) == 2
    error = user_error(capsys)
    assert str(file) in error
    assert named in error
    assert not (tmp_path / "run").exists()


def test_help_lists_every_field_of_every_config(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    listed = re.findall(r"^  --config\.([\w.]+)=.*\n +\S", capsys.readouterr().out, re.MULTILINE)
    for file in CONFIGS.glob("*.py"):
        assert set(flatten(load_config(str(file), {}))) <= set(listed), file
