"""The converter's command line: what it cannot do is one sentence, status 2, and nothing half-written."""

import json
import os
import shutil
import subprocess

import convert_pytorch
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from dks_jax import models
from dks_jax.weights import Metadata, Weights, load_weights, read_checkpoint, save_weights, torch_names
from dks_jax.weights.folder import METADATA
from support.mutants import network_tensors
from support.small_disk import needs_root

MODEL = {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0}


def write_weights(path, branches, *, imported=False):
    """Weights of a WRN-16-1, all of them 1; branches as `models.resolve_branches` takes them."""
    network = models.Network(MODEL, models.resolve_branches(MODEL, branches), 10, 3)
    arrays = {name: jnp.ones(shape.shape) for name, shape in models.shapes(network).items()}
    preprocessing = models.Preprocessing("squash", 32, 32, 3, (0.5,) * 3, (0.25,) * 3)
    metadata = Metadata(MODEL, network.branches, tuple("abcdefghij"), preprocessing, imported=imported)
    statistics = {name: array for name, array in arrays.items() if name.endswith((".mean", ".var"))}
    params = {name: array for name, array in arrays.items() if name not in statistics}
    save_weights(path, Weights(params, statistics, metadata))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights without branches."""
    return write_weights(tmp_path_factory.mktemp("converted") / "weights", ())


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "weights")


@pytest.fixture
def refused(capsys):
    def message(direction, file, weights, *more):
        assert (
            convert_pytorch.main([direction, f"--torch={file}", f"--weights={weights}", *map(str, more)]) == 2
        )
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.endswith(".\n")
        assert error.count("\n") == 1, error
        return error

    return message


def changed_metadata(folder, **fields):
    file = folder / METADATA
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_damaged_folder_of_weights_is_not_exported(copy, tmp_path, refused):
    largest = max((p for p in copy.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    whole = largest.read_bytes()
    largest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "has changed since it was written" in refused("export", tmp_path / "out.pth", copy)
    largest.unlink()
    assert "is missing" in refused("export", tmp_path / "out.pth", copy)
    (copy / METADATA).write_text("{")
    assert f"{METADATA} is broken" in refused("export", tmp_path / "out.pth", copy)
    (copy / METADATA).unlink()
    assert "holds no weights" in refused("export", tmp_path / "out.pth", copy)
    assert os.listdir(tmp_path) == ["weights"]


@pytest.mark.parametrize(
    "fields",
    [
        *({"model": model} for model in (None, {}, [], {"name": 5})),
        *({"model": {"name": name}} for name in ("vgg", "resnet20", "resnet")),
        {"model": {"name": "resnet18"}},
        {"model": MODEL | {"depth": 22}},
        {"model": {"name": "wide_resnet"}},
        {"class_names": 5},
        *({"preprocessing": value} for value in (None, {}, {"name": "dks", "height": "224"})),
    ],
    ids=str,
)
def test_wrong_metadata_is_not_exported(fields, copy, tmp_path, refused):
    changed_metadata(copy, **fields)
    error = refused("export", tmp_path / "out.pth", copy)
    expected = METADATA, *(f"`{name}" for name in fields)
    assert any(part in error for part in expected)
    assert os.listdir(tmp_path) == ["weights"]


def test_targets_that_cannot_be_written(folder, tmp_path, refused):
    must = "`--torch` must name a file"
    assert must in refused("export", tmp_path, folder)
    assert must in refused("export", tmp_path / "absent" / "out.pth", folder)
    os.mkfifo(tmp_path / "pipe")
    assert must in refused("export", tmp_path / "pipe", folder)
    (tmp_path / "pipe").unlink()
    assert "File name too long" in refused("export", tmp_path / ("x" * 300), folder)
    assert os.listdir(tmp_path) == []


@needs_root
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_full_or_read_only_disk_keeps_the_file_before(suffix, folder, small_disk, refused):
    disk = small_disk(0.3)
    file = disk / f"out{suffix}"
    file.write_bytes(b"before")
    assert "No space left on device" in refused("export", file, folder)
    assert "No space left on device" in refused("export", disk / f"new{suffix}", folder)
    assert file.read_bytes() == b"before"
    assert os.listdir(disk) == [file.name]
    subprocess.run(["mount", "-o", "remount,ro,size=100m", disk], check=True)
    assert "Read-only file system" in refused("export", file, folder)
    assert file.read_bytes() == b"before"


@needs_root
def test_a_full_disk_leaves_no_half_imported_weights(folder, tmp_path, small_disk, refused):
    assert convert_pytorch.main(["export", f"--torch={tmp_path / 'c.pth'}", f"--weights={folder}"]) == 0
    disk = small_disk(0.3)
    assert "No space left on device" in refused("import", tmp_path / "c.pth", disk / "weights")
    assert os.listdir(disk) == []


def test_an_existing_file_is_replaced_and_nothing_else_is_left(folder, tmp_path):
    file = tmp_path / "out.pth"
    file.write_bytes(b"before")
    assert convert_pytorch.main(["export", f"--torch={file}", f"--weights={folder}"]) == 0
    assert torch.load(file, weights_only=True)["params"]["conv0"].shape == (16, 3, 3, 3)
    assert os.listdir(tmp_path) == ["out.pth"]


def test_a_failure_while_writing_keeps_the_file_before(folder, tmp_path, monkeypatch):
    file = tmp_path / "out.pth"
    file.write_bytes(b"before")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.write_bytes", interrupted)
    assert convert_pytorch.main(["export", f"--torch={file}", f"--weights={folder}"]) == 130
    monkeypatch.undo()
    assert file.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["out.pth"]


def test_flags_that_do_not_belong_together(folder, tmp_path, refused):
    assert "`--drop_branches` must not be given" in refused("import", "a", tmp_path / "b", "--drop_branches")
    assert "`--model` must not be given" in refused("export", "a", folder, "--model=resnet18")
    assert "Argument --model: invalid choice: 'resnet51'" in refused("import", "a", "b", "--model=resnet51")
    assert "absent.pth is absent" in refused("import", tmp_path / "absent.pth", tmp_path / "b")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert "must name a new folder" in refused("import", "a", tmp_path / "full")
    assert "invalid choice" in refused("convert", "a", folder)


def test_an_image_that_cannot_be_read_is_found_before_anything_is_written(folder, tmp_path, refused):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    for name in ("bad.png", "absent.png"):
        command = ("export", tmp_path / "out.pth", folder, "--check", tmp_path / "good.png", tmp_path / name)
        assert name in refused(*command)
    assert sorted(os.listdir(tmp_path)) == ["bad.png", "good.png"]


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_other_channels_can_be_checked(channels, tmp_path, capsys):
    shapes = models.shapes(models.Network(MODEL, (), 10, channels))
    table = models.get_family("wide_resnet").torch[0]
    tensors = {
        name: torch.rand(torch_names.torch_shape(table, own, shapes[own].shape)) * 0.1 + 0.01
        for name, own in torch_names.names(table, shapes).items()
    }
    torch.save(tensors, tmp_path / "c.pth")
    command = ["import", f"--torch={tmp_path / 'c.pth'}", f"--weights={tmp_path / 'weights'}", "--check"]
    assert convert_pytorch.main(command) == 0
    assert "8 of 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("imported", "flags", "kept"),
    [
        (False, [], False),
        (False, ["--branches"], True),
        (False, ["--drop_branches"], False),
        (True, [], True),
        (True, ["--drop_branches"], False),
    ],
)
def test_a_run_leaves_its_branches_behind_and_an_imported_checkpoint_keeps_them(
    imported, flags, kept, tmp_path, capsys
):
    folder, file = write_weights(tmp_path / "weights", "published", imported=imported), tmp_path / "out.pth"
    assert convert_pytorch.main(["export", f"--torch={file}", f"--weights={folder}", *flags]) == 0
    names = torch.load(file, weights_only=True)["params"]
    assert any(name.startswith("ep") for name in names) == kept
    assert convert_pytorch.main(["import", f"--torch={file}", f"--weights={tmp_path / 'back'}"]) == 0
    assert f"{2 if kept else 0} branches" in capsys.readouterr().out.splitlines()[-2]


def test_branches_that_pytorch_has_no_names_for_are_refused(tmp_path, refused):
    folder, file = write_weights(tmp_path / "weights", ((1, (1,), (16,)),)), tmp_path / "out.pth"
    assert "(1, (1,), (16,))" in refused("export", file, folder, "--branches")
    assert not file.exists()
    assert convert_pytorch.main(["export", f"--torch={file}", f"--weights={folder}"]) == 0


def test_branches_are_kept_or_dropped_and_not_both(folder, refused):
    assert "--drop_branches" in refused("export", "a", folder, "--branches", "--drop_branches")


@pytest.fixture
def ten_classes(tmp_path):
    """A checkpoint of a WRN-16-1 with ten classes without names."""
    torch.save(network_tensors(), tmp_path / "c.pth")
    return tmp_path / "c.pth"


def test_class_names_come_from_a_file_in_label_order(ten_classes, tmp_path):
    (tmp_path / "classes.txt").write_text("\ufeff" + "\r\n".join("äbcdefghij") + "\n\n", "utf-8", newline="")
    command = ["import", f"--torch={ten_classes}", f"--weights={tmp_path / 'weights'}"]
    assert convert_pytorch.main([*command, f"--classes={tmp_path / 'classes.txt'}"]) == 0
    assert load_weights(tmp_path / "weights").metadata.class_names == tuple("äbcdefghij")


@pytest.mark.parametrize("names", ["abcdefghi", "abcdefghijk", "aacdefghij"])
def test_class_names_of_another_number_or_twice_are_refused(names, ten_classes, tmp_path, refused):
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert "classes.txt" in refused(
        "import", ten_classes, tmp_path / "w", f"--classes={tmp_path / 'classes.txt'}"
    )
    assert not (tmp_path / "w").exists()


def test_a_file_of_class_names_that_is_none(ten_classes, tmp_path, refused):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfa")
    for name in ("absent", "binary"):
        assert name in refused("import", ten_classes, tmp_path / "w", f"--classes={tmp_path / name}")
    for flag in ("--classes=binary", "--entry=model"):
        assert flag[:7] in refused("export", tmp_path / "out.pth", tmp_path / "w", flag)


@pytest.mark.parametrize("ending", [".pth", ".pt", ".pt7", ".bin", ".ckpt", ".pth.tar", ".safetensors"])
def test_the_ending_of_an_export_is_that_of_a_format_of_pytorch(ending, folder, tmp_path, refused):
    file = tmp_path / f"out{ending}"
    assert convert_pytorch.main(["export", f"--torch={file}", f"--weights={folder}"]) == 0
    assert len(read_checkpoint(file).metadata.class_names) == 10
    other = tmp_path / f"out{ending}x"
    assert ".safetensors" in refused("export", other, folder)
    assert not other.exists()
