"""Prepares a data set of tensorflow-datasets (tfds) for training, which then reads it without TensorFlow.

    python tools/prepare_dataset.py NAME [--data_dir DIR] [--manual_dir DIR]

NAME is what tfds calls the data set, e.g. cifar100, mnist, imagenet2012 or imagenet_resized/32x32. Its
published files are downloaded, unless they lie in the manual_dir, e.g. cifar-10-binary.tar.gz or
cifar-100-binary.tar.gz. Those with another checksum than tfds knows are refused. imagenet2012 is never
downloaded: put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar there.

A preparation that fails leaves complete downloads at most. One that was killed leaves folders incomplete.*,
which the next one that succeeds removes, and *.tmp.* among the downloads.
"""

import argparse
import difflib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from dks_jax.command_line import Parser, run
from dks_jax.data import tfds_source
from dks_jax.errors import InputError

# What tfds would leave out of the prepared data set, with a mere warning, where it is absent.
MANUAL_FILES = {"imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return run(
        lambda: _prepare(parse(argv)),
        interrupted="interrupted: the same command starts again from the complete downloads",
    )


def _prepare(arguments: argparse.Namespace) -> None:
    # tfds uses importlib_resources here and does not say so.
    needed = ("tensorflow_datasets", "array_record", "importlib_resources", "tensorflow")
    tfds_source.require(*needed, extra="prepare")
    restrain()
    builder = find_builder(arguments.name, arguments.data_dir)
    done = is_prepared(builder)
    if not done:
        prepare(builder, arguments.data_dir, arguments.manual_dir)
    print(f"{'already prepared: ' if done else ''}{summary(builder, arguments.data_dir)}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The name and the two folders that a command line asks for."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser("python tools/prepare_dataset.py", description=__doc__, formatter_class=layout)
    parser.add_argument("name", metavar="NAME", help="of the data set, NAME[/CONFIG][:VERSION]")
    parser.add_argument(
        "--data_dir", type=tfds_source.data_dir, default="", metavar="DIR", help="default: that of tfds"
    )
    parser.add_argument("--manual_dir", type=Path, metavar="DIR", help="default: DATA_DIR/downloads/manual")
    arguments = parser.parse_args(argv)
    if arguments.manual_dir is None:
        arguments.manual_dir = arguments.data_dir / "downloads" / "manual"
    elif not arguments.manual_dir.expanduser().is_dir():
        raise InputError(f"`--manual_dir` must be a folder; there is no folder {arguments.manual_dir}.")
    arguments.manual_dir = arguments.manual_dir.expanduser()
    return arguments


def restrain() -> None:
    """Keeps TensorFlow and tfds, before they are loaded, from logging and TensorFlow from taking a GPU."""
    from absl import logging

    # The level does not keep TensorFlow 2.21 from announcing oneDNN.
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    logging.set_verbosity(logging.ERROR)


def find_builder(name: str, data_dir: Path) -> Any:
    """What prepares the data set `name`, by the code that comes with tfds and no other.

    Raises:
      InputError: tfds has no such data set, configuration or version.
    """
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    match = tfds_source.NAME.fullmatch(name)
    known = tfds.list_builders(with_community_datasets=False)
    if match is None or match["name"] not in known:
        close = difflib.get_close_matches(match["name"] if match else name, known)
        hint = f"the closest ones are {', '.join(close)}" if close else "its catalogue has them all"
        raise InputError(f"`NAME` must be a data set of tfds, NAME[/CONFIG][:VERSION]; got {name!r}, {hint}.")
    try:
        builder = tfds.builder_cls(match["name"])
        return builder(data_dir=data_dir, config=match["config"], version=match["version"])
    except (AssertionError, ValueError) as error:
        raise InputError(
            f"`NAME` must be a data set that tfds can prepare; got {name!r}: {_line(error)}."
        ) from error
    except json_format.ParseError as error:
        raise InputError(
            f"{data_dir / match['name']} holds a damaged dataset_info.json; delete the folder that it is in."
        ) from error


def is_prepared(builder: Any) -> bool:
    """Whether the data set is prepared as array_record files.

    Raises:
      InputError: its folder holds something else.
    """
    folder = Path(builder.data_dir)
    if folder.exists() and builder.info.file_format.value != "array_record":
        raise InputError(
            f"{folder} exists and holds no array_record files; delete it or give another --data_dir."
        )
    return folder.exists()


def prepare(builder: Any, data_dir: Path, manual_dir: Path) -> None:
    """Downloads what is not in the manual_dir, and writes the data set as array_record files.

    Raises:
      InputError: a file is absent or another one than the published, or cannot be downloaded.
    """
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    check_manual_files(builder, manual_dir)
    downloads = data_dir / "downloads"
    with scratch_folder(builder, downloads) as scratch, redirect_stdout(sys.stderr):
        config = tfds.download.DownloadConfig(
            manual_dir=manual_dir, extract_dir=scratch, try_download_gcs=False
        )
        try:
            builder.download_and_prepare(
                download_dir=downloads, download_config=config, file_format="array_record"
            )
        except NonMatchingChecksumError as error:
            finding = str(error).partition(":\n")[0]
            raise InputError(f"{finding}; put the published file into {manual_dir}.") from error
        except (requests.RequestException, tfds.download.DownloadError) as error:
            raise not_downloaded(builder, manual_dir, error) from error
        except OSError:
            raise
        # Not a list of types: the code of a data set fails in any way on files that it does not expect.
        except Exception as error:
            raise InputError(
                f"tfds cannot prepare {builder.name} ({type(error).__name__}: {_line(error)}); look at the "
                f"files in {manual_dir}, or try another version of tensorflow-datasets."
            ) from error


def check_manual_files(builder: Any, manual_dir: Path) -> None:
    """Raises InputError where files that tfds never downloads are not in the manual_dir."""
    missing = [name for name in MANUAL_FILES.get(builder.name, ()) if not (manual_dir / name).exists()]
    if missing:
        raise InputError(
            f"{builder.name} is made of files put into {manual_dir} by hand, which lacks "
            f"{' and '.join(missing)}: download them from https://image-net.org/download-images."
        )
    instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if instructions and not (manual_dir.is_dir() and any(manual_dir.iterdir())):
        raise InputError(
            f"{builder.name} is made of files put into {manual_dir} by hand, which is empty: "
            f"{' '.join(instructions.split())}"
        )


def not_downloaded(builder: Any, manual_dir: Path, error: Exception) -> InputError:
    """What to do where the network fails."""
    names = {url: info.filename for url, info in (builder.url_infos or {}).items()}
    urls = [url for url, name in names.items() if name and not (manual_dir / name).exists()]
    remedy = (
        f"download {', '.join(urls)} elsewhere and put the files into {manual_dir}" if urls else "try again"
    )
    return InputError(f"{builder.name} could not be downloaded ({type(error).__name__}); {remedy}.")


@contextmanager
def scratch_folder(builder: Any, downloads: Path) -> Iterator[Path]:
    """A folder to unpack archives in; at the end it is removed, and with it whatever else is half-done."""
    target = Path(builder.data_dir)
    absent = [path for path in (downloads / builder.name, downloads, *target.parents) if not path.exists()]
    suffix = f"_{builder.info.full_name.replace('/', '_')}"

    def unfinished() -> set[Path]:
        return {*target.parent.glob(f"incomplete.*_{target.name}"), *downloads.glob(f"incomplete.*{suffix}")}

    def partial() -> set[Path]:
        return set((downloads / builder.name).rglob("*.tmp.*"))

    others = unfinished() | partial()
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        yield Path(tempfile.mkdtemp(prefix="incomplete.", suffix=suffix, dir=downloads))
    except BaseException:
        # Other processes may be at work on what was there before.
        _remove((unfinished() | partial()) - others)
        raise
    else:
        # Who is preparing the same data set can only fail now.
        _remove(unfinished())
    finally:
        for path in absent:
            with suppress(OSError):
                path.rmdir()


def _remove(folders: set[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def summary(builder: Any, data_dir: Path) -> str:
    """What is prepared and how to train with it, in one line."""
    config = builder.builder_config
    name = f"{builder.name}/{config.name}" if config else builder.name
    counts = ", ".join(f"{split.num_examples:,} {split.name}" for split in builder.info.splits.values())
    return (
        f"{name}, version {builder.version}: {counts} images in {builder.data_dir}; train with "
        f"--config.data.source=tfds --config.data.name={name} --config.data.root={shlex.quote(str(data_dir))}"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
