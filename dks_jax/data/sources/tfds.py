"""Data sets that tensorflow-datasets (tfds) has prepared as array_record files, read without TensorFlow.

A prepared data set is the folder <root>/<name>[/<config>]/<version>. It holds dataset_info.json (splits and
files), features.json (the features of a record), <label>.labels.txt (class names) and the records, which are
serialised tf.train.Example messages with encoded images, e.g. JPEG. The code that prepared the data set,
which tools/prepare_dataset.py runs, is not needed, and nothing that the files refer to is imported.
"""

import io
import operator
import os
import re
import shlex
import zlib
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dks_jax.data import decoding, splits
from dks_jax.data.images import HeldOut, ImageData, StoredSplit, UnreadableError
from dks_jax.data.preprocessing import UndecodableError, View
from dks_jax.data.sources.interface import Source
from dks_jax.runtime.errors import InputError

NAME = re.compile(r"(?P<name>\w+)(?:/(?P<config>[\w.+-]+))?(?::(?P<version>\d+\.\d+\.\d+))?")
VERSION = re.compile(r"\d+\.\d+\.\d+")
# imagenet2012 has more files than the 1,024 that a process may keep open on many systems. Opening one takes
# 0.2 ms.
OPEN_FILES = 128


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


class Example(NamedTuple):
    """A record: the encoded image, its label, and its file name ("" if records hold none)."""

    encoded: bytes
    label: int
    file_name: str


def load(root: str, name: str, view: View, *, train_split: str = "", held_out: str = "") -> ImageData:
    """Opens a prepared data set, whose images are read as uint8 [image_size, image_size, channels].

    Image and label are the two features that the data set declares for supervised learning, e.g. the fine
    label of cifar100, or else its only image and its only class label.

    Args:
      root: the data_dir of tfds; if empty, the environment variable TFDS_DATA_DIR or ~/tensorflow_datasets.
      name: name in tfds, e.g. "cifar100", "cifar100:3.0.2" or "imagenet_resized/32x32"; without a version the
        newest prepared one is taken.
      view: size, channels and preprocessing of the images. With 0 channels the data set decides: 1 for grey
        images, e.g. of mnist, else 3.
      train_split, held_out: names of the splits; "" to find them by `find_splits`.

    Raises:
      InputError: the data set is not prepared as array_record files; it lacks an image, a class label or a
        split as described; its files are absent or damaged; or a package is not installed.
    """
    prepared = describe(root, name)
    names = _find_splits(prepared, train_split, held_out, training=True)
    train, test = (
        _stored(prepared, split, own, _examples(prepared, split))
        for split, own in zip(names, (view.for_training, view), strict=True)
    )
    return ImageData(train, test, prepared.class_names)


def load_held_out(root: str, name: str, view: View, *, held_out: str = "") -> HeldOut:
    """Opens only the held-out split; the data set may lack the training split. See `load`."""
    prepared = describe(root, name)
    _, held_out = _find_splits(prepared, "", held_out, training=False)
    return HeldOut(_stored(prepared, held_out, view, _examples(prepared, held_out)), prepared.class_names)


def find_splits(root: str, name: str, train_split: str, held_out: str, *, training: bool) -> tuple[str, str]:
    """The names of the training split and of the held-out split of a prepared data set.

    Where a name is "", the split of its kind that is there is taken; see `splits`. The test images of some
    data sets, e.g. imagenet2012, have no labels; such a split does not count. The training split may be
    absent, and is then "", where only held-out images are asked for.

    Raises:
      InputError: a split is absent, or there are two of one kind.
    """
    return _find_splits(describe(root, name), train_split, held_out, training=training)


def _find_splits(prepared: Prepared, train_split: str, held_out: str, *, training: bool) -> tuple[str, str]:
    for field, name in (("train_split", train_split), ("held_out", held_out)):
        if name and name not in prepared.splits:
            raise _lacks_split(prepared, f"the split {name!r} that `data.{field}` names")
    kinds = splits.IN_TRAINING if training else splits.IN_EVALUATION
    names = {name for kind in kinds for name in splits.KINDS[kind]}
    if not held_out:
        candidates = [name for name in prepared.splits if name.lower() in names]
        labelled = [name for name in candidates if _examples(prepared, name)(0).label >= 0]
        held_out = splits.choose(labelled, kinds, "held_out") or ""
    if not held_out:
        raise _lacks_split(prepared, f"a split {' or '.join(sorted(names))} with labels")
    train_split = train_split or splits.choose(list(prepared.splits), ("train",), "train_split") or ""
    if training and not train_split:
        raise _lacks_split(prepared, "a split train")
    return train_split, held_out


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
    """The folder of a prepared data set; for the arguments see `load`.

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
    """Reads the description of a prepared data set; for the arguments see `load`.

    Raises:
      InputError: as for `load`, except that the splits and the records are not looked at.
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


def _lacks_split(prepared: Prepared, missing: str) -> InputError:
    found = ", ".join(prepared.splits) or "none"
    return InputError(f"`data.name` must be a data set with {missing}; {prepared.name} has {found}.")


def _stored(prepared: Prepared, split: str, view: View, example: Callable[[int], Example]) -> StoredSplit:
    """A split that decodes its images when they are read.

    The checksum covers the names of the data set, the split and the classes, the numbers of records, their
    total size and the first record.

    Args:
      example: function that reads a record of the split; see `_examples`.
    """
    classes = len(prepared.class_names)
    view = view._replace(channels=view.channels or prepared.channels)

    def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        encoded, label, _ = example(index)
        if not 0 <= label < classes:
            raise InputError(
                f"`data.name` must be a data set whose images all have a label; image {index} of the split "
                f"{split} of {prepared.name} has the label {label}, which is none of its {classes} classes."
            )
        try:
            return decoding.decode(io.BytesIO(encoded), view, rng), label
        except UndecodableError as error:
            raise _unreadable(prepared, split, index, "Image", str(error)) from error

    def name(index: int) -> str:
        return example(index).file_name or f"{split}/{index}"

    _, lengths, num_bytes = prepared.splits[split]
    first = example(0)
    told = (prepared.name, split, lengths, num_bytes, prepared.class_names, (first.encoded, first.label))
    return StoredSplit(sum(lengths), view.shape, zlib.crc32(repr(told).encode()), read, name)


def _examples(prepared: Prepared, split: str) -> Callable[[int], Example]:
    """Returns a function that reads the record at an index; several threads may call it at the same time."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordReader

    files, lengths, _ = prepared.splits[split]
    for file in files:
        if not file.exists():
            raise InputError(f"{file} is absent; {prepared.remedy}.")
    ends = list(accumulate(lengths))
    texts = {"file_name": tfds.features.Text()} if prepared.has_file_names else {}
    features: Any = tfds.features.FeaturesDict(
        {prepared.image: tfds.features.Image(), prepared.label: tfds.features.ClassLabel(), **texts}
    )
    # Images are decoded here, because the decoder of tfds depends on the packages that are installed.
    decoders = {prepared.image: tfds.decode.SkipDecoding()}

    # Threads can share a reader, since reading by position does not change it. A reader that leaves the cache
    # is closed when the last thread is done with it.
    @lru_cache(OPEN_FILES)
    def reader(shard: int) -> Any:
        options = "readahead_buffer_size:0,max_parallelism:0"
        return ArrayRecordReader(str(files[shard]), options=options, file_reader_buffer_size=2**15)

    def example(index: int) -> Example:
        shard = bisect_right(ends, index)
        try:
            record = reader(shard).read([index - ends[shard] + lengths[shard]])[0]
            values = features.deserialize_example_np(record, decoders=decoders)
            # A truncated file can yield empty records, whose values are None.
            return Example(
                bytes(values[prepared.image]),
                operator.index(values[prepared.label]),
                bytes(values["file_name"]).decode(errors="replace") if texts else "",
            )
        # The reader raises RuntimeError, and the parsers raise many types on bad bytes.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            finding = f"cannot be read ({type(error).__name__}: {reason})"
            raise _unreadable(prepared, split, index, "Record", finding) from error

    return example


def _unreadable(prepared: Prepared, split: str, index: int, noun: str, finding: str) -> UnreadableError:
    place = f"{index} of the split {split} of {prepared.name}"
    return UnreadableError(f"image {place}", f"{noun} {place} {finding}; {prepared.remedy}.")


SOURCE = Source(
    lambda config, view: load(
        config.root, config.name, view, train_split=config.train_split, held_out=config.held_out
    ),
    lambda config, view: load_held_out(config.root, config.name, view, held_out=config.held_out),
    lambda config, *, training: find_splits(
        config.root, config.name, config.train_split, config.held_out, training=training
    ),
    num_classes=lambda config: 1000 if config.name.partition(":")[0] == "imagenet2012" else 0,
    named=True,
    read_for_labels=True,
)
