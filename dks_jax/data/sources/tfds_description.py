"""What a folder that tensorflow-datasets (tfds) has prepared holds, read from its description.

A prepared data set is the folder <root>/<name>[/<config>]/<version>. It holds dataset_info.json (splits and
files), features.json (the features of a record), <label>.labels.txt (class names) and the records. The code
that prepared the data set, which tools/prepare_dataset.py runs, is not needed, and nothing that the files
refer to is imported.
"""

import os
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dks_jax.runtime.errors import InputError

NAME = re.compile(r"(?P<name>\w+)(?:/(?P<config>[\w.+-]+))?(?::(?P<version>\d+\.\d+\.\d+))?")
VERSION = re.compile(r"\d+\.\d+\.\d+")


class Shards(NamedTuple):
    """The files of a split.

    files: paths of the files.
    lengths: number of records in each file.
    num_bytes: size of all records together.
    """

    files: tuple[Path, ...]
    lengths: tuple[int, ...]
    num_bytes: int


class Prepared(NamedTuple):
    """A prepared data set for image classification.

    name: name with config and version, e.g. "cifar100:3.0.2".
    remedy: what to do if its files are damaged, for error messages.
    image, label: names of the features that hold the image and its class.
    has_file_names: whether records hold the file name of the image, as those of imagenet2012 do.
    channels: number of channels of the images, 3 (RGB) or 1 (grey).
    class_names: class names in label order.
    splits: the splits that have records, by name.
    """

    name: str
    remedy: str
    image: str
    label: str
    has_file_names: bool
    channels: int
    class_names: tuple[str, ...]
    splits: dict[str, Shards]


def require(*packages: str, extra: str) -> None:
    """Raises InputError if one of the packages is not installed; `extra` is the extra that installs them."""
    for package in packages:
        if find_spec(package) is None:
            raise InputError(
                f"Data sets of tfds need the package {package}, which is not installed; run pip install "
                f"'dks-jax[{extra}]'."
            )


def data_dir(root: str) -> Path:
    """The folder of all prepared data sets; the default of tfds if `root` is empty."""
    return Path(os.path.expanduser(root or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")))


def find(root: str, name: str) -> Path:
    """The folder of a prepared data set.

    Args:
      root: the folder of all data sets, as of `data_dir`.
      name: name in tfds, e.g. "cifar100", "cifar100:3.0.2" or "imagenet_resized/32x32"; without a version the
        newest prepared one is taken.

    Raises:
      InputError: the name is malformed, or no such data set is prepared.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise InputError(
            "`data.name` must be a name of tfds, e.g. cifar100, cifar100:3.0.2 or imagenet_resized/32x32; "
            f"got {name!r}."
        )
    folder = data_dir(root)
    variant = folder / match["name"] / (match["config"] or "")
    versions = [path for path in variant.glob("*") if VERSION.fullmatch(path.name)]
    wanted = [path for path in versions if match["version"] in (None, path.name)]
    if not wanted:
        others = _names(folder, match["name"])
        raise InputError(
            f"`data.name` must be a data set that is prepared in `data.root`; {folder} does not hold {name!r}"
            f"{', only ' + ', '.join(others) if others else ''}: run {_command(root, name)}, or set "
            "data.source=folder for a folder of images."
        )
    return max(wanted, key=lambda path: [int(number) for number in path.name.split(".")])


def _names(folder: Path, name: str) -> list[str]:
    """The prepared versions of a data set, as "name:version" or "name/config:version"."""
    infos = [*folder.glob(f"{name}/*/dataset_info.json"), *folder.glob(f"{name}/*/*/dataset_info.json")]
    return sorted(":".join(info.parent.relative_to(folder).as_posix().rsplit("/", 1)) for info in infos)


def _command(root: str, name: str) -> str:
    """The command that prepares a data set."""
    return f"python tools/prepare_dataset.py {name} --data_dir {shlex.quote(str(data_dir(root)))}"


def describe(root: str, name: str) -> Prepared:
    """Reads the description of a prepared data set; for the arguments see `find`.

    Image and label are the two features that the data set declares for supervised learning, e.g. the fine
    label of cifar100, or else its only image and its only class label.

    Raises:
      InputError: the data set is not prepared as array_record files; it lacks an image or a class label as
        described; a file that describes it is damaged; or a package is not installed.
    """
    require("tensorflow_datasets", "array_record", extra="tfds")
    from tensorflow_datasets.core import proto

    # The message classes are created at run time, so type checkers do not know them.
    schema: Any = proto
    folder = find(root, name)
    remedy = f"delete {folder} and run {_command(root, name)}"
    info = _parse(folder / "dataset_info.json", schema.dataset_info_pb2.DatasetInfo(), remedy)
    if info.file_format != "array_record":
        raise InputError(
            f"`data.name` must be a data set that is prepared as array_record files; {folder} holds "
            f"{info.file_format or 'tfrecord'} files: {remedy}, or choose another `data.root`."
        )
    full_name = f"{'/'.join(filter(None, (info.name, info.config_name)))}:{info.version}"
    features = _parse(folder / "features.json", schema.feature_pb2.Feature(), remedy).features_dict.features
    image, label = _image_and_label(features, info.supervised_keys.tuple.items, full_name)
    if features[image].image.dtype != "uint8":
        raise InputError(
            f"`data.name` must be a data set of images with 8 bits per channel; those of {full_name} are "
            f"{features[image].image.dtype}."
        )
    return Prepared(
        full_name,
        remedy,
        image,
        label,
        has_file_names="file_name" in features and features["file_name"].HasField("text"),
        channels=1 if features[image].image.shape.dimensions[-1:] == [1] else 3,
        class_names=_class_names(
            folder / f"{label}.labels.txt", features[label].class_label.num_classes, remedy
        ),
        splits=_splits(folder, info, remedy),
    )


def _parse(path: Path, message: Any, remedy: str) -> Any:
    """Reads a protobuf message from a JSON file, the format in which tfds describes a data set."""
    from google.protobuf import json_format

    try:
        json_format.Parse(path.read_text(encoding="utf-8"), message, ignore_unknown_fields=True)
        if not message.ListFields():
            raise ValueError("no known field")
    except (OSError, ValueError, RecursionError, json_format.ParseError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}); {remedy}.") from error
    return message


def _image_and_label(features: Any, supervised: Any, name: str) -> tuple[str, str]:
    """The names of the features that hold the image and its class."""
    # Segmentation maps use the message of images too, and differ in their Python class.
    images = [
        key
        for key in features
        if features[key].HasField("image") and features[key].python_class_name.endswith(".Image")
    ]
    labels = [key for key in features if features[key].class_label.num_classes > 0]
    pair = [item.feature_key for item in supervised]
    if len(pair) == 2 and pair[0] in images and pair[1] in labels:
        return pair[0], pair[1]
    if len(images) == len(labels) == 1:
        return images[0], labels[0]
    raise InputError(
        "`data.name` must be a data set for image classification, with one image and one class label; "
        f"{name} has {_listing('image', images)} and {_listing('class label', labels)}."
    )


def _listing(noun: str, names: list[str]) -> str:
    return f"the {noun}s {', '.join(sorted(names))}" if names else f"no {noun}"


def _class_names(path: Path, count: int, remedy: str) -> tuple[str, ...]:
    """Reads the class names in label order; without the file they are the labels as numbers."""
    if not path.exists():
        return tuple(str(label) for label in range(count))
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}); {remedy}.") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != count:
        raise InputError(f"{path} has {len(names)} class names, not {count}; {remedy}.")
    return names


def _splits(folder: Path, info: Any, remedy: str) -> dict[str, Shards]:
    """The splits that have records, by name."""
    import tensorflow_datasets as tfds

    try:
        template = tfds.core.ShardedFileTemplate(
            tfds.core.Path(folder), dataset_name=info.name, filetype_suffix=info.file_format
        )
        splits = [tfds.core.SplitInfo.from_proto(split, template) for split in info.splits]
        shards = {
            split.name: Shards(
                tuple(Path(file) for file in split.filepaths),
                tuple(split.shard_lengths),
                int(split.num_bytes),
            )
            for split in splits
        }
    # A damaged template of the file names can raise any error that str.format raises.
    except Exception as error:
        raise InputError(f"{folder / 'dataset_info.json'} names no files of records; {remedy}.") from error
    return {name: split for name, split in shards.items() if sum(split.lengths) > 0}
