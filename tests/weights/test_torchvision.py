"""ResNets of torchvision, timm and the code released with DHM, taken over and handed back."""

import json
import os
import re
from pathlib import Path

import convert_pytorch
import jax
import numpy as np
import pytest
import torch
import torch_forward
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from dks_jax import evaluate, models, predict
from dks_jax.nn import get_arrays
from dks_jax.weights import load_network, torch_names
from support.real_torchvision import torchvision
from support.runs import ROOT
from support.torchvision_branches import with_dhm_branches

PHOTOGRAPHS = os.environ.get("DKS_TEST_DATA")
SIBLINGS = ("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2")
# The others take minutes together.
OTHERS = (
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    *SIBLINGS,
    "timm/resnet50",
    "timm/resnext50_32x4d",
)
NAMES = ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]


def lively(network):
    """The network with statistics, scales and counters as after some training, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.2, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.num_batches_tracked.fill_(5005)
    return network.eval()


def create(name, **options):
    """A network of torchvision by its name; of timm where the name begins with "timm/"."""
    if not name.startswith("timm/"):
        return torchvision.models.get_model(name, **options)
    timm = pytest.importorskip("timm", reason="needs pip install --no-deps timm huggingface_hub")
    return timm.create_model(name.removeprefix("timm/"), **options)


def resnet(name):
    torch.manual_seed(int(re.search(r"\d+", name)[0]))
    return lively(create(name))


def convert(direction, file, folder, *more):
    return convert_pytorch.main([direction, f"--torch={file}", f"--weights={folder}", *more])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of val/<class>/<image>: real ones of ImageNet."""
    if not PHOTOGRAPHS:
        pytest.skip("the environment variable DKS_TEST_DATA names no folder of images")
    return Path(PHOTOGRAPHS) / "imagenet_samples"


def few(photographs, folder, count):
    """A folder of some of the 50 photographs."""
    for path in sorted(photographs.glob("val/*/*"))[:: 50 // count]:
        target = folder / path.relative_to(photographs)
        target.parent.mkdir(parents=True)
        target.symlink_to(path)
    return folder


def torchvision_logits(network, folder, batch=10, resize=None):
    """Of all images of a folder in sorted order; resized as by the evaluation released with DKS, or else."""
    transforms = torchvision.transforms
    transform = transforms.Compose(
        [
            resize or transforms.Resize([256, 256], transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    images = [transform(Image.open(path).convert("RGB")) for path in sorted(folder.glob("val/*/*"))]
    with torch.no_grad():
        return torch.cat([network(torch.stack(part)) for part in batches(images, batch)]).numpy()


def batches(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 5),
        *(pytest.param(name, 50, marks=pytest.mark.slow) for name in ("resnet18", *OTHERS)),
    ],
)
def test_logits_on_photographs_are_those_of_torchvision(name, count, photographs, tmp_path):
    folder = few(photographs, tmp_path / "images", count)
    network = resnet(name)
    file = tmp_path / "released.pth"
    torch.save({f"module.{name}": tensor for name, tensor in network.state_dict().items()}, file)
    assert convert("import", file, tmp_path / "weights") == 0
    # The weights say which network it is.
    command = [f"--config={ROOT}/configs/imagenet_resnet18.py", f"--weights={tmp_path / 'weights'}"]
    command += ["--config.data.source=folder", f"--config.data.root={folder}", "--config.data.batch_size=10"]
    assert evaluate.main([*command, f"--logits={tmp_path / 'logits.npy'}"]) == 0
    ours, theirs = np.load(tmp_path / "logits.npy"), torchvision_logits(network, folder)
    assert ours.shape == (1, *theirs.shape)
    difference = np.abs(ours[0] - theirs).max()
    print(f"{name}, {len(theirs)} images: largest difference {difference / np.abs(theirs).max():.1e}")
    assert difference < 1e-5 * np.abs(theirs).max()
    best = np.sort(theirs, axis=1)[:, ::-1][:, :6]
    no_tie = np.all(best[:, :-1] - best[:, 1:] > 2 * difference, axis=1)
    top5, their_top5 = (np.argsort(-x, axis=1)[:, :5] for x in (ours[0], theirs))
    assert no_tie.any()
    np.testing.assert_array_equal(top5[no_tie], their_top5[no_tie])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnext50_32x4d", "wide_resnet50_2", "timm/resnet50"])
def test_predictions_of_photographs_are_those_of_torchvision(name, photographs, tmp_path, capsys):
    """Of a sibling by torchvision's own preprocessing, which its weights are taken to need."""
    folder = few(photographs, tmp_path / "images", 10)
    network = resnet(name)
    torch.save(network.state_dict(), tmp_path / "c.pth")
    assert predict.main(["--json", f"--weights={tmp_path / 'c.pth'}", str(folder)]) == 0
    printed = capsys.readouterr()
    released = name.endswith("/resnet50")
    assert ("dks" if released else "standard") in printed.err
    resize = None if released else torchvision.transforms.Resize(256)
    theirs = torch.tensor(torchvision_logits(network, folder, resize=resize)).double().softmax(1).numpy()
    described = json.loads(printed.out)
    assert len(described) == 10
    for own, expected in zip(described, theirs, strict=True):
        likeliest = sorted(expected)[::-1][:5]
        np.testing.assert_allclose([p["probability"] for p in own["predictions"]], likeliest, rtol=1e-4)
        np.testing.assert_allclose(expected[[p["label"] for p in own["predictions"]]], likeliest, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_comes_back_bit_for_bit_and_torchvision_loads_it(name, suffix, tmp_path):
    before = resnet(name).state_dict()
    torch.save({f"module.{own}": tensor for own, tensor in before.items()}, tmp_path / "before.pth")
    after_file = tmp_path / f"after{suffix}"
    model = name.removeprefix("timm/")
    assert convert("import", tmp_path / "before.pth", tmp_path / "weights", f"--model={model}") == 0
    assert convert("export", after_file, tmp_path / "weights") == 0
    after = load_file(after_file) if suffix == ".safetensors" else torch.load(after_file, weights_only=True)
    assert_same_tensors(before, after)
    assert suffix == ".safetensors" or list(before) == list(after)
    create(name).load_state_dict(after, strict=True)


def assert_same_tensors(before, after):
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype, name
        assert tensor.numpy().tobytes() == after[name].contiguous().numpy().tobytes(), name


def with_branches(name, num_classes=10):
    """A state dict with the branches of DHM, by its own names, and random values."""
    model = {"name": name}
    shapes = models.shapes(models.Network(model, models.resolve_branches(model, "published"), num_classes, 3))
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    table = models.get_family(name).torch[0]
    for theirs, own in torch_names.names(table, shapes).items():
        shape = torch_names.torch_shape(table, own, shapes[own].shape)
        values = torch.rand(shape, generator=generator)
        tensors[theirs] = (
            values + 0.5 if len(shape) == 1 else (values - 0.5) * (8 / np.prod(shape[1:])) ** 0.5
        )
    return tensors


DEEP = ("resnet50", "resnext50_32x4d")


@pytest.fixture(scope="module", params=["resnet18", *(pytest.param(n, marks=pytest.mark.slow) for n in DEEP)])
def dhm(request, tmp_path_factory):
    """(name, tensors, folder): a checkpoint as the training of DHM leaves it, and folder / "weights"."""
    folder = tmp_path_factory.mktemp("dhm")
    tensors = with_branches(request.param)
    state = {f"module.{name}": tensor for name, tensor in tensors.items()}
    more = {"epoch": 90, "arch": request.param, "best_acc": np.float64(70.1), "optimizer": {}}
    torch.save({"state_dict": state, **more}, folder / "checkpoint.pth.tar")
    assert convert("import", folder / "checkpoint.pth.tar", folder / "weights") == 0
    return request.param, tensors, folder


@pytest.mark.slow
def test_branches_of_dhm_are_kept_in_depth_order_and_agree(dhm, tmp_path, capsys):
    _, tensors, folder = dhm
    assert convert("export", tmp_path / "back.pth", folder / "weights", "--check") == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert_same_tensors(tensors, {name: value for name, value in back.items() if name in tensors})
    assert all(name.endswith("num_batches_tracked") for name in set(back) - set(tensors))
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [row[0] for row in cells[2:]] == ["branch1", "branch2", "main"]
    for _, images, largest, difference, same in cells[2:]:
        assert (images, same) == ("8", "8 of 8")
        assert 0 < float(difference) < 1e-4 * float(largest)


@pytest.mark.slow
def test_check_fails_where_the_logits_differ(dhm, tmp_path, capsys, monkeypatch):
    _, _, folder = dhm
    right = torch_forward.logits
    monkeypatch.setattr(torch_forward, "logits", lambda *arguments: right(*arguments) * 1.001)
    assert convert("export", tmp_path / "back.pth", folder / "weights", "--check") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "PyTorch" in line


def test_the_backbone_alone_is_exported_for_torchvision(dhm, tmp_path):
    name, _, folder = dhm
    assert convert("export", tmp_path / "plain.pth", folder / "weights", "--drop_branches") == 0
    fresh = create(name, num_classes=10)
    fresh.load_state_dict(torch.load(tmp_path / "plain.pth", weights_only=True), strict=True)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", pytest.param("resnext50_32x4d", marks=pytest.mark.slow)]
)
def test_the_plain_forward_pass_is_that_of_torchvision(name):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = resnet(name)
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(torch_forward.logits(network.state_dict(), images)[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2"])
def test_branches_are_blocks_of_torchvision_in_the_form_of_dhm(name, tmp_path):
    """Of a sibling they are ours; torchvision's own code builds them, and their logits are the same."""
    early, late = ((12, 2), 3) if "101" in name else ((3, 2), 3)
    torch.manual_seed(0)
    network = lively(with_dhm_branches(create(name, num_classes=10), early, late))
    torch.save(network.state_dict(), tmp_path / "c.pth")
    assert convert("import", tmp_path / "c.pth", tmp_path / "weights") == 0
    ours, metadata = load_network(tmp_path / "weights")
    assert metadata.model == {"name": name}
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = network(images).numpy()
    logits = jax.jit(ours)(images.permute(0, 2, 3, 1).numpy())
    for own, their in zip(np.asarray(logits), theirs, strict=True):
        assert np.abs(own - their).max() < 1e-5 * np.abs(their).max()


def test_a_pth_file_gives_the_same_network_as_its_converted_weights(tmp_path):
    torch.save(resnet("resnet18").state_dict(), tmp_path / "c.pth")
    assert convert("import", tmp_path / "c.pth", tmp_path / "weights") == 0
    (straight, metadata), (converted, _) = (load_network(tmp_path / name) for name in ("c.pth", "weights"))
    for name, array in get_arrays(straight).items():
        np.testing.assert_array_equal(array, get_arrays(converted)[name])
    assert metadata.class_names[207] == "n02099601"
    assert metadata.preprocessing.name == "dks"
