"""Data sets that tensorflow-datasets (tfds) has prepared as array_record files, read without TensorFlow.

The records are serialised tf.train.Example messages with encoded images, e.g. JPEG; what else is in the
folder of a data set, tfds_description.py reads.
"""

import io
import operator
import zlib
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from dks_jax.data import decoding, splits
from dks_jax.data.images import HeldOut, ImageData, StoredSplit, UnreadableError
from dks_jax.data.preprocessing import UndecodableError, View
from dks_jax.data.sources.interface import Source
from dks_jax.data.sources.tfds_description import Prepared, describe
from dks_jax.runtime.errors import InputError

# imagenet2012 has more files than the 1,024 that a process may keep open on many systems. Opening one takes
# 0.2 ms.
OPEN_FILES = 128


class Example(NamedTuple):
    """A record: the encoded image, its label, and its file name ("" if records hold none)."""

    encoded: bytes
    label: int
    file_name: str


def load(root: str, name: str, view: View, *, train_split: str = "", held_out: str = "") -> ImageData:
    """Opens a prepared data set, whose images are read as uint8 [image_size, image_size, channels].

    Args:
      root: the data_dir of tfds; if empty, the environment variable TFDS_DATA_DIR or ~/tensorflow_datasets.
      name: name in tfds, as of `tfds_description.find`.
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
