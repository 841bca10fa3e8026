"""ResNeXts and wide ResNets beside the ResNets whose blocks they vary: told apart, computed, refused."""

import signal
from functools import partial
from pathlib import Path

import convert_pytorch
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from dks_jax import InputError, models, train
from dks_jax.models import resnet
from dks_jax.nn import BatchNorm, Conv
from dks_jax.nn.functional import Functional
from dks_jax.weights import Metadata, Weights, adopt_weights, torch_names
from support.comparison import assert_agree
from support.real_torchvision import torchvision
from support.runs import CONFIGS, assert_falling, assert_same_end, losses, signal_after, user_error
from support.torchvision_branches import with_dhm_branches

SHALLOW = ("resnet50", "resnext50_32x4d", "wide_resnet50_2")
DEEP = ("resnet101", "resnext101_32x8d", "wide_resnet101_2")


def state_dict(name, *, branches, num_classes=7):
    """Its names and shapes, of arrays without values."""
    early = (12, 2) if "101" in name else (3, 2)
    with torch.device("meta"):
        network = torchvision.models.get_model(name, num_classes=num_classes)
        network = with_dhm_branches(network, early, 3) if branches else network
    return {own: torch.zeros(()).expand(tensor.shape) for own, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", [*SHALLOW, *DEEP])
def test_a_checkpoint_is_recognised_with_and_without_branches(name):
    tensors = state_dict(name, branches=True)
    for branches in (True, False):
        shapes = {own: tuple(t.shape) for own, t in tensors.items() if branches or "_head" not in own}
        network = torch_names.recognise(shapes).network
        assert network.model == {"name": name}
        assert network.branches == (models.resolve_branches(network.model, "published") if branches else ())


@pytest.mark.parametrize(
    ("name", "other"), [("resnext50_32x4d", "resnet50"), ("wide_resnet50_2", "resnext50_32x4d")]
)
def test_weights_of_a_sibling_are_refused_as_another_model(name, other, tmp_path, capsys):
    file, weights = tmp_path / "c.pth", tmp_path / "weights"
    torch.save(state_dict(name, branches=False), file)
    command = ["import", f"--torch={file}", f"--weights={weights}", f"--model={other}"]
    assert convert_pytorch.main(command) == 2
    message = user_error(capsys, alone=True)
    assert f" {other}" in message
    assert f" {name}" in message
    assert not weights.exists()


def test_a_network_of_other_groups_is_refused(tmp_path, capsys):
    torch.save(state_dict("resnext101_64x4d", branches=False), tmp_path / "c.pth")
    command = ["import", f"--torch={tmp_path / 'c.pth'}", f"--weights={tmp_path / 'weights'}"]
    assert convert_pytorch.main(command) == 2
    message = user_error(capsys, alone=True)
    assert "resnet101" in message
    assert "layer1.0.conv1.weight" in message


def test_fine_tuning_does_not_start_from_a_sibling():
    def described(name):
        return models.Network({"name": name}, (), 7, 3)

    network = nnx.eval_shape(lambda: models.build(**described("resnet50")._asdict(), seed=0))
    preprocessing = models.get_family("resnet50").torch[0].preprocessing
    metadata = Metadata({"name": "wide_resnet50_2"}, (), (), preprocessing)
    weights = Weights(models.shapes(described("wide_resnet50_2")), {}, metadata)
    with pytest.raises(InputError, match=r"`init_weights`.*64 in the network, 128.* wide_resnet50_2"):
        adopt_weights(network, weights, Path("wide.pth"), tuple("abcdefg"))


@pytest.mark.parametrize(("name", "width"), [("resnext50_32x4d", 15), ("resnext101_32x8d", 7)])
def test_a_branch_whose_groups_would_have_no_channel_is_refused(name, width):
    recipe = resnet.RECIPES[name]
    assert resnet.inner_width(width + 1, recipe.groups, recipe.group_width) == 32
    backbone = models.get_family(name).backbone(
        drop_path=0.0, head_dropout=0.0, num_classes=2, channels=3, norm_groups=1, rngs=nnx.Rngs(0)
    )
    with pytest.raises(InputError, match=f"`widths`.* {width + 1},.* {width}"):
        backbone.stage(3, 64, 1, width)


@pytest.mark.parametrize(("groups", "group_width"), [(4, 16), pytest.param(1, 128, marks=pytest.mark.slow)])
def test_a_block_is_that_of_torchvision(groups, group_width, x64, quick_compilation):
    """A block that halves the resolution, in training: output, statistics and all gradients."""
    rngs = nnx.Rngs(0)
    layers = models.Layers(partial(Conv, rngs=rngs), partial(BatchNorm, rngs=rngs))
    block = resnet.Bottleneck(24, 16, 2, layers, groups=groups, group_width=group_width)
    ours = Functional(block)
    shortcut = nn.Sequential(nn.Conv2d(24, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
    theirs = torchvision.models.resnet.Bottleneck(24, 16, 2, shortcut, groups, group_width).double().train()
    params = {name: jnp.asarray(value, jnp.float64) for name, value in ours.params.items()}
    stats = {name: jnp.asarray(value, jnp.float64) for name, value in ours.batch_stats.items()}
    table = models.get_family("resnet50").torch[0]
    state = {n: torch.from_numpy(a.copy()) for n, a in torch_names.to_torch(table, params | stats).items()}
    theirs.load_state_dict(state, strict=False)
    random = np.random.default_rng(0)
    x, weights = random.standard_normal((3, 6, 6, 24)), random.standard_normal((3, 3, 3, 64))

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        output, new = ours.train(params, stats, x, jax.random.key(0))
        return (output * weights).sum(), new

    (value, new), gradients = loss(params)
    output = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    (output * torch.from_numpy(weights)).sum().backward()
    np.testing.assert_allclose(value, (output.detach().numpy() * weights).sum(), rtol=1e-12)
    expected = {name: tensor.grad.numpy() for name, tensor in theirs.named_parameters()}
    expected |= {name: t.numpy() for name, t in theirs.named_buffers() if "running" in name}
    assert_agree(torch_names.to_torch(table, gradients | new), expected, 1e-12)


TRAINED = {
    "data.image_size": 64,
    "data.batch_size": 4,
    "data.random_resized_crop": False,
    "data.flip": False,
    "optimizer.warmup_epochs": 0.0,
    "epochs": 3,
}


@pytest.fixture
def photographs(tmp_path):
    """A folder of two classes that one look tells apart."""
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for index, name in enumerate(("dark", "light")):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(128 * index, 128 * (index + 1), (64, 64, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{i}.png")
    return tmp_path / "images"


def fine_tune(name, images, workdir, **fields):
    """Exit status of three epochs of two steps."""
    given = TRAINED | {"model.name": name, "data.root": images} | fields
    flags = [f"--config.{field}={value}" for field, value in given.items()]
    return train.main([f"--config={CONFIGS}/finetune_folder.py", f"--workdir={workdir}", *flags])


# The branches of a wide ResNet have 207 million parameters.
SLIM = {"model.branches": "((1,(1,),(64,)),)"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fields"), [("resnext50_32x4d", {}), ("wide_resnet50_2", SLIM)])
@pytest.mark.usefixtures("quick_compilation")
def test_fine_tuning_starts_from_a_file_of_torchvision(name, fields, photographs, tmp_path, capsys):
    torch.manual_seed(0)
    file = tmp_path / "c.pth"
    torch.save(torchvision.models.get_model(name).state_dict(), file)
    assert fine_tune(name, photographs, tmp_path / "run", init_weights=file, **fields) == 0
    assert "arrays taken over" in capsys.readouterr().out
    assert_falling(losses(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{}, {"remat": True, "precision": "bfloat16"}], ids=["plain", "remat, bfloat16"]
)
@pytest.mark.usefixtures("quick_compilation", "default_signals")
def test_a_run_learns_and_one_that_was_stopped_ends_as_the_unbroken_one(
    fields, photographs, tmp_path, monkeypatch
):
    fields = SLIM | fields
    whole, stopped = tmp_path / "unbroken", tmp_path / "stopped"
    assert fine_tune("resnext50_32x4d", photographs, whole, **fields) == 0
    assert_falling(losses(whole))
    with monkeypatch.context() as patch:
        signal_after(patch, "train", 3, signal.SIGTERM)
        assert fine_tune("resnext50_32x4d", photographs, stopped, **fields) == 128 + signal.SIGTERM
    assert fine_tune("resnext50_32x4d", photographs, stopped, **fields) == 0
    assert_same_end(stopped, whole)
