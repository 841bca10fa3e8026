"""Config files: loading one, setting its fields from the command line, and checking all of them.

A config file is plain Python with a function `get_config(method)` that returns an ml_collections
ConfigDict. It holds every field of FIELDS and, under `model`, the arguments of the model that it names.
"""

import ast
import difflib
import math
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import ml_collections

from dks_jax.errors import InputError

# A ConfigDict. Its fields are attributes that no type checker can know.
Config: TypeAlias = Any


class Field(NamedTuple):
    """What a field of the config may hold.

    type: of the value, or of the elements where `several` is set.
    minimum, maximum: of a number, inclusive.
    above, below: numbers between which the value must lie.
    """

    type: type
    meaning: str
    minimum: float = -math.inf
    maximum: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    several: bool = False


COUNT_LIMIT = 10**9

FIELDS: dict[str, Field] = {
    "method": Field(str, "dks, ds, baseline, top_down or bottom_up"),
    "seed": Field(int, "of initial weights, order, augmentation and dropout", 0, 2**32 - 1),
    "epochs": Field(int, "passes over the training images", 1, COUNT_LIMIT),
    "precision": Field(str, "float32 or bfloat16, of the network; parameters and loss are float32"),
    "deterministic": Field(bool, "whether a GPU must compute the same bits in every run; slower"),
    "remat": Field(bool, "whether to compute activations twice instead of keeping them: less memory"),
    "norm_groups": Field(int, "slices of the batch that are normalised separately", 1, COUNT_LIMIT),
    "checkpoint_every_epochs": Field(int, "epochs between two checkpoints", 1, COUNT_LIMIT),
    "checkpoint_every_minutes": Field(float, "minutes between two checkpoints, 0 for none", 0),
    "init_weights": Field(str, "weights, finished run or PyTorch checkpoint to start from; empty: none"),
    "init_optimizer": Field(bool, "whether to go on with the momentum and at the epoch of init_weights"),
    "data.source": Field(str, "digits, cifar, folder or tfds"),
    "data.name": Field(str, "cifar10 or cifar100 for the source cifar; of the data set for tfds"),
    "data.root": Field(str, "folder of the data, for the sources cifar and folder; data_dir of tfds"),
    "data.streamed": Field(bool, "whether images of a folder or tfds are decoded as they are needed"),
    "data.image_size": Field(int, "side in pixels; images of a folder or tfds are brought to it", 1, 10**5),
    "data.preprocessing": Field(str, "how they are: squash, dks or standard"),
    "data.train_per_class": Field(int, "training images to take of each class, 0 for all", 0, COUNT_LIMIT),
    "data.test_per_class": Field(int, "held-out images to take of each class, 0 for all", 0, COUNT_LIMIT),
    "data.batch_size": Field(int, "images in a step, over all devices", 1, COUNT_LIMIT),
    "data.drop_last": Field(bool, "whether to leave out the last, partial batch of an epoch"),
    "data.padding": Field(int, "pixels added on every side before the random crop", 0, 10**5),
    "data.pad_mode": Field(str, "reflect or zero"),
    "data.flip": Field(bool, "whether to mirror half of the training images"),
    "data.random_resized_crop": Field(bool, "whether training images are random parts; streamed only"),
    "data.color_jitter": Field(
        float, "largest change of brightness, contrast and saturation; streamed only", 0, 1
    ),
    "data.mean": Field(float, "per channel, of pixels from 0 to 1", several=True),
    "data.std": Field(float, "per channel, of pixels from 0 to 1", above=0, several=True),
    "model.name": Field(str, "of the backbone; the other fields of model are its arguments"),
    "synergy.alpha": Field(float, "weight of all divergences between classifiers", 0),
    "synergy.temperature": Field(float, "of the divergences", above=0),
    "synergy.epsilon": Field(float, "smoothing of the probabilities; 1e-8 as released, 0: exact KL", 0),
    "optimizer.schedule": Field(str, "step or cosine"),
    "optimizer.learning_rate": Field(float, "before any drop", 0),
    "optimizer.momentum": Field(float, "of the gradient, 0 for none", 0, below=1),
    "optimizer.weight_decay": Field(float, "added to the gradient (coupled)", 0),
    "optimizer.clip_norm": Field(float, "largest norm of the whole gradient, 0 for any", 0),
    "optimizer.decay_norm_and_bias": Field(bool, "whether norms and biases decay too"),
    "optimizer.drop_epochs": Field(int, "rising epochs, counted from 1; step only", 1, 10**6, several=True),
    "optimizer.drop_factor": Field(float, "by which the learning rate is multiplied there", 0, 1),
    "optimizer.reset_momentum_at_drops": Field(bool, "whether the momentum is set to zero there"),
    "optimizer.warmup_epochs": Field(float, "of linear warm-up; cosine only", 0),
}


def load(file: str, overrides: Mapping[str, str]) -> Config:
    """The config of `file` ("configs/NAME.py" or "configs/NAME.py:method") with fields replaced.

    Args:
      file: path of the config file, and after a colon the method to train by.
      overrides: by field, e.g. "optimizer.learning_rate", the new value as typed on a command line.

    Raises:
      InputError: the file is absent or broken, a field is unknown, missing, of another type or out of range.
    """
    path, method = split_method(file)
    if not path.is_file():
        raise InputError(f"`--config` must name a file, e.g. configs/digits_wrn.py; there is no {path}.")
    try:
        get_config = runpy.run_path(str(path))["get_config"]
        config = get_config(method) if method else get_config()
    except Exception as error:
        raise InputError(f"The config file {path} fails with {type(error).__name__}: {error}.") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"`get_config` of {path} must return an ml_collections.ConfigDict; got {config!r}.")
    for field, text in overrides.items():
        _override(config, field, text)
    check(config)
    return config


def split_method(file: str) -> tuple[Path, str]:
    """The path and the method of "PATH:METHOD"; the method is empty where there is none."""
    if Path(file).is_file() or ":" not in file:
        return Path(file), ""
    path, _, method = file.rpartition(":")
    return Path(path), method


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """Every field of a config, or of its JSON form, by its dotted name."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def check(config: Config) -> None:
    """Raises InputError for a field that is unknown, missing, of another type or out of range.

    The fields of `model` other than its name are checked by `models.check`.
    """
    flat = flatten(config)
    for name in FIELDS:
        if name not in flat:
            raise InputError(f"The config lacks the field `{name}`; set it, as configs/digits_wrn.py does.")
    for name, value in flat.items():
        if name in FIELDS:
            _check_field(name, value)
        elif not name.startswith("model."):
            raise _unknown(name, FIELDS)


def fits(value: Any, expected: type) -> bool:
    """Whether a value serves as one of a type: also an int as a float, but no bool as a number."""
    if isinstance(value, bool):
        return expected is bool
    return isinstance(value, (int, float) if expected is float else expected)


def _check_field(name: str, value: Any) -> None:
    field = FIELDS[name]
    kind = f"a tuple of {field.type.__name__}" if field.several else f"of type {field.type.__name__}"
    values = value if field.several else (value,)
    if not isinstance(values, tuple) or not all(fits(v, field.type) for v in values):
        raise InputError(f"`{name}` must be {kind}; got {value!r}.")
    for v in values:
        if field.type not in (int, float):
            continue
        inside = field.minimum <= v <= field.maximum and field.above < v < field.below
        if not inside or not math.isfinite(v):
            raise InputError(f"`{name}` must be {_range(field)}; got {value}.")


def _range(field: Field) -> str:
    bounds = [
        f"{word} {bound}"
        for word, bound in (
            ("at least", field.minimum),
            ("above", field.above),
            ("at most", field.maximum),
            ("below", field.below),
        )
        if math.isfinite(bound)
    ]
    return " and ".join(bounds) or "finite"


def _override(config: Config, name: str, text: str) -> None:
    flat = flatten(config)
    if name not in flat:
        raise _unknown(name, flat)
    # The type of a model's argument is known to models.check alone.
    field = FIELDS.get(name)
    expected = (tuple if field.several else field.type) if field else None
    value = _parse(text, expected)
    if expected and not fits(value, expected):
        raise InputError(
            f"`--config.{name}` must be of type {expected.__name__}, e.g. {flat[name]!r}; got {text[:100]!r}."
        )
    *parents, last = name.split(".")
    for parent in parents:
        config = config[parent]
    with config.ignore_type():
        config[last] = value


def _parse(text: str, expected: type | None) -> Any:
    """The value that a text on the command line stands for; the text itself where it is no literal."""
    if expected is str:
        return text
    try:
        value = ast.literal_eval(text.capitalize() if expected is bool else text)
        return expected(value) if expected and fits(value, expected) else value
    # What literal_eval raises on any text, and float() on a whole number too large for it.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError):
        return text


def _unknown(name: str, known: Mapping[str, Any]) -> InputError:
    members = [field for field in known if field.startswith(f"{name}.")]
    if members:
        return InputError(f"`{name}` is a group of fields; set one of {', '.join(members)}.")
    close = difflib.get_close_matches(name, known, n=1)
    accepted = f"the closest one is `{close[0]}`" if close else f"the fields are {', '.join(known)}"
    return InputError(f"The config has no field `{name}`; {accepted}.")
