"""Prepares a data set of tensorflow-datasets (tfds) for training, which then reads it without TensorFlow.

    python tools/prepare_dataset.py NAME [--data_dir DIR] [--manual_dir DIR]

NAME is the name of the data set in tfds, e.g. cifar100, mnist, imagenet2012 or imagenet_resized/32x32. Its
published files are downloaded unless they are in manual_dir, e.g. as cifar-10-binary.tar.gz or
cifar-100-binary.tar.gz. Files whose checksum is not the one in tfds are refused. imagenet2012 is never
downloaded: put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into manual_dir.

A preparation that fails leaves nothing but complete downloads. One that is killed also leaves folders
incomplete.*, which the next successful preparation removes, and files *.tmp.* among the downloads.
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
from dks_jax.data.sources.tfds_description import NAME, data_dir, require
from dks_jax.runtime.errors import InputError

# If one of these files is absent, tfds only warns and leaves out a part of the data set.
MANUAL_FILES = {"imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return run(
        lambda: _prepare(parse(argv)),
        interrupted="interrupted: the same command starts again from the complete downloads",
    )


def _prepare(arguments: argparse.Namespace) -> None:
    # tfds needs importlib_resources to prepare data sets, but does not declare it as a dependency.
    needed = ("tensorflow_datasets", "array_record", "importlib_resources", "tensorflow")
    require(*needed, extra="prepare")
    restrain()
    builder = find_builder(arguments.name, arguments.data_dir)
    done = is_prepared(builder)
    if not done:
        prepare(builder, arguments.data_dir, arguments.manual_dir)
    print(f"{'already prepared: ' if done else ''}{summary(builder, arguments.data_dir)}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses a command line; raises InputError if an argument is wrong."""
    parser = Parser("python tools/prepare_dataset.py", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="of the data set, NAME[/CONFIG][:VERSION]")
    parser.add_argument("--data_dir", type=data_dir, default="", metavar="DIR", help="default: that of tfds")
    parser.add_argument("--manual_dir", type=Path, metavar="DIR", help="default: DATA_DIR/downloads/manual")
    arguments = parser.parse_args(argv)
    if arguments.manual_dir is None:
        arguments.manual_dir = arguments.data_dir / "downloads" / "manual"
    elif not arguments.manual_dir.expanduser().is_dir():
        raise InputError(f"`--manual_dir` must be a folder; there is no folder {arguments.manual_dir}.")
    arguments.manual_dir = arguments.manual_dir.expanduser()
    return arguments


def restrain() -> None:
    """Silences TensorFlow and tfds and hides GPUs from TensorFlow; to be called before they are imported."""
    from absl import logging

    # TensorFlow 2.21 announces oneDNN at every log level.
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    logging.set_verbosity(logging.ERROR)


def find_builder(name: str, data_dir: Path) -> Any:
    """Finds the builder of a data set among those that come with tfds.

    Raises:
      InputError: tfds has no such data set, configuration or version.
    """
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    match = NAME.fullmatch(name)
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
    """Downloads the files that are not in `manual_dir`, and writes the data set as array_record files.

    Raises:
      InputError: a file is absent, differs from the published one or cannot be downloaded.
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
        # The code of a data set can raise any error on files that it does not expect.
        except Exception as error:
            raise InputError(
                f"tfds cannot prepare {builder.name} ({type(error).__name__}: {_line(error)}); look at the "
                f"files in {manual_dir}, or try another version of tensorflow-datasets."
            ) from error


def check_manual_files(builder: Any, manual_dir: Path) -> None:
    """Raises InputError if a file that tfds never downloads is not in `manual_dir`."""
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
    """The error for a failed download, with the addresses of the files."""
    names = {url: info.filename for url, info in (builder.url_infos or {}).items()}
    urls = [url for url, name in names.items() if name and not (manual_dir / name).exists()]
    remedy = (
        f"download {', '.join(urls)} elsewhere and put the files into {manual_dir}" if urls else "try again"
    )
    return InputError(f"{builder.name} could not be downloaded ({type(error).__name__}); {remedy}.")


@contextmanager
def scratch_folder(builder: Any, downloads: Path) -> Iterator[Path]:
    """Makes a folder for unpacked archives; at the end removes it and all other incomplete files."""
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
        # Other processes may still be working on what was there before.
        _remove((unfinished() | partial()) - others)
        raise
    else:
        # Other processes that prepare the same data set can only fail now.
        _remove(unfinished())
    finally:
        for path in absent:
            with suppress(OSError):
                path.rmdir()


def _remove(folders: set[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def summary(builder: Any, data_dir: Path) -> str:
    """Describes the prepared data set, and how to train with it, in one line."""
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
