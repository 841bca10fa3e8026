"""Mixup and CutMix: hand-computed batches, torchvision's boxes, and no mixing where it is off."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from dks_jax import no_pairs, objective
from dks_jax.data.feeds import Batch
from dks_jax.training import mixing
from support.real_torchvision import torchvision
from support.runs import records, run, signal_after, user_error

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES = 4


def batch(size=6, side=8):
    random = np.random.default_rng(0)
    images = jnp.asarray(random.standard_normal((size, side, side, 3)), jnp.float32)
    return Batch(images, jnp.arange(size) % CLASSES, jnp.ones(size))


def fields_of(**fields):
    plain = {"mixup": 0.0, "cutmix": 0.0, "probability": 1.0, "switch_probability": 0.5}
    return ConfigDict(plain | fields)


def test_mixup_by_hand():
    given_batch = batch()
    mixed = mixing.blend(given_batch, jnp.float32(0.75), CLASSES)
    images = np.asarray(given_batch.images)
    np.testing.assert_allclose(mixed.images, 0.75 * images + 0.25 * images[::-1], rtol=1e-6)
    # The classes are 0 1 2 3 0 1, in reverse 1 0 3 2 1 0.
    np.testing.assert_allclose(mixed.targets[0], [0.75, 0.25, 0, 0])
    np.testing.assert_allclose(mixed.targets[2], [0, 0, 0.75, 0.25])


def test_cutmix_by_hand():
    given_batch = batch()
    box = tuple(map(jnp.int32, (2, 6, 0, 4)))
    mixed = mixing.paste(given_batch, box, CLASSES)
    images, expected = np.asarray(given_batch.images), np.array(given_batch.images)
    expected[:, 2:6, :4] = images[::-1, 2:6, :4]
    np.testing.assert_array_equal(mixed.images, expected)
    # 16 of 64 pixels are those of the other image.
    np.testing.assert_allclose(mixed.targets[0], [0.75, 0.25, 0, 0])


@given(st.integers(0, 22), st.integers(0, 31), st.floats(0, 1))
def test_boxes_are_those_of_torchvision(row, column, share):
    # The formula of torchvision.transforms.v2.CutMix, in float32 as there.
    ratio = 0.5 * np.sqrt(np.float32(1) - np.float32(share))
    half_height, half_width = int(ratio * np.float32(23)), int(ratio * np.float32(32))
    expected = max(row - half_height, 0), min(row + half_height, 23)
    expected += max(column - half_width, 0), min(column + half_width, 32)
    box = mixing.box_around(jnp.int32(row), jnp.int32(column), jnp.float32(share), 23, 32)
    assert tuple(map(int, box)) == expected


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mixed_batch_and_its_losses_are_those_of_timm(kind, smoothing):
    # timm imports torchvision.
    assert torchvision
    theirs = pytest.importorskip("timm.data.mixup")
    losses = pytest.importorskip("timm.loss")
    given_batch = batch()
    images = torch.tensor(np.asarray(given_batch.images).transpose(0, 3, 1, 2))
    labels = torch.tensor(np.asarray(given_batch.targets))
    alphas = {"mixup_alpha": 1.0} if kind == "mixup" else {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}
    mix = theirs.Mixup(**alphas, label_smoothing=smoothing, num_classes=CLASSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "beta", lambda *_: 0.6)
        patch.setattr(np.random, "randint", lambda low, high, size: (low + high) // 2 - 1)
        expected, soft = mix(images.clone(), labels)
        (top, bottom, left, right), _ = theirs.cutmix_bbox_and_lam(images.shape, 0.6)
    box = tuple(map(jnp.int32, (top, bottom, left, right)))
    mixed = (
        mixing.blend(given_batch, jnp.float32(0.6), CLASSES)
        if kind == "mixup"
        else mixing.paste(given_batch, box, CLASSES)
    )
    np.testing.assert_allclose(mixed.images, expected.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-7)
    logits = np.random.default_rng(1).standard_normal((1, 6, CLASSES)).astype(np.float32)
    ours = [{}, {"binary": True}, {"binary": True, "threshold": 0.2}]
    criteria = [losses.SoftTargetCrossEntropy()]
    criteria += [losses.BinaryCrossEntropy(target_threshold=threshold) for threshold in (None, 0.2)]
    for arguments, criterion in zip(ours, criteria, strict=True):
        total, _ = objective(logits, mixed.targets, no_pairs(1), label_smoothing=smoothing, **arguments)
        np.testing.assert_allclose(total, criterion(torch.tensor(logits[0]), soft), rtol=1e-6)


@given(st.integers(2, 40), st.integers(2, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_boxes_differ_from_those_of_timm_by_a_pixel_at_most(height, width, share, seed):
    """timm gives a box of odd length its whole length; here, as in torchvision, it loses the odd pixel."""
    assert torchvision
    theirs = pytest.importorskip("timm.data.mixup")
    np.random.seed(seed)  # noqa: NPY002 - timm draws from it
    row, column = np.random.randint(0, height), np.random.randint(0, width)  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    top, bottom, left, right = theirs.rand_bbox((3, height, width), share)
    box = mixing.box_around(jnp.int32(row), jnp.int32(column), jnp.float32(share), height, width)
    assert (np.abs(np.array(box) - [top, bottom, left, right]) <= 1).all()


@pytest.mark.parametrize(
    "fields", [{}, {"mixup": 1.0, "cutmix": 1.0, "probability": 0.0}, {"probability": 1.0}]
)
def test_without_alpha_or_probability_nothing_is_mixed(fields):
    assert mixing.from_config(fields_of(**fields), CLASSES) is None


def test_a_batch_that_is_not_drawn_stays_as_it_is():
    mix = jax.jit(mixing.from_config(fields_of(mixup=1.0, cutmix=1.0, probability=0.5), CLASSES))
    given_batch, plain = batch(), 0
    for seed in range(40):
        mixed = mix(given_batch, jax.random.key(seed))
        if np.array_equal(mixed.targets, jax.nn.one_hot(given_batch.targets, CLASSES)):
            plain += 1
            np.testing.assert_array_equal(mixed.images, given_batch.images)
    # Binomial, 40 draws at 1/2: outside of 8 to 32 once in 20,000 times.
    assert 8 <= plain <= 32


@pytest.mark.parametrize(("switch", "share"), [(0.0, 0), (1.0, 40), (0.5, 20)])
def test_the_switch_chooses_between_the_two(switch, share):
    mix = jax.jit(mixing.from_config(fields_of(mixup=1.0, cutmix=1.0, switch_probability=switch), CLASSES))
    given_batch, pasted = batch(), 0
    both = np.stack([given_batch.images, given_batch.images[::-1]])
    for seed in range(40):
        # Of pasted images every pixel is that of one of the two.
        images = np.asarray(mix(given_batch, jax.random.key(seed)).images)
        pasted += bool(np.all((images == both[0]) | (images == both[1])))
    assert abs(pasted - share) <= (0 if switch in (0.0, 1.0) else 12)


def test_shares_follow_the_beta_distribution():
    mix = jax.jit(mixing.from_config(fields_of(mixup=0.4), CLASSES))
    given_batch = batch(2)
    shares = [float(mix(given_batch, jax.random.key(seed)).targets[0, 0]) for seed in range(400)]
    # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)).
    assert abs(np.mean(shares) - 0.5) < 0.08
    assert abs(np.var(shares) - 1 / (4 * 1.8)) < 0.02


def test_a_label_that_is_no_class_makes_the_loss_nan():
    given_batch = batch()._replace(targets=jnp.array([0, 1, 2, 3, -1, 4]))
    mixed = mixing.blend(given_batch, jnp.float32(0.75), CLASSES)
    total, _ = objective(jnp.zeros((1, 6, CLASSES)), mixed.targets, np.zeros((1, 1)))
    assert jnp.isnan(total)


def test_a_config_mixes_and_a_run_that_was_stopped_ends_as_the_unbroken_one(
    tmp_path, tiny_model, capsys, monkeypatch
):
    flags = [f"--config.mixing.{field}" for field in ("mixup=0.2", "cutmix=1.0", "probability=0.9")]
    flags += ["--config.loss.label_smoothing=0.1", "--config.synergy.random_pairs=True"]
    assert run(tmp_path / "unbroken", *flags) == 0
    with monkeypatch.context() as patch:
        signal_after(patch, "train", 3, signal.SIGTERM)
        assert run(tmp_path / "stopped", *flags) == 143
    assert run(tmp_path / "stopped", *flags) == 0
    assert run(tmp_path / "plain") == 0
    losses = {
        name: [r["loss"] for r in records(tmp_path / name)] for name in ("unbroken", "stopped", "plain")
    }
    assert losses["stopped"] == losses["unbroken"] != losses["plain"]
    capsys.readouterr()
    assert run(tmp_path / "wrong", "--config.mixing.probability=2") == 2
    assert "`mixing.probability`" in user_error(capsys)
