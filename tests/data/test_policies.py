"""Operations and policies against torchvision's own on Pillow images, pixel for pixel and draw for draw."""

import numpy as np
import pytest
import torch
from PIL import Image

from dks_jax.config import FIELDS
from dks_jax.data import operations, policies
from dks_jax.data.operations import OPERATIONS, Step
from dks_jax.data.preprocessing import View
from support.real_torchvision import transforms

theirs = transforms.autoaugment
NEAREST = transforms.InterpolationMode.NEAREST
POLICIES = {
    "autoaugment_cifar10": theirs.AutoAugment(theirs.AutoAugmentPolicy.CIFAR10),
    "autoaugment_imagenet": theirs.AutoAugment(theirs.AutoAugmentPolicy.IMAGENET),
    "randaugment": theirs.RandAugment(2, 9),
    "trivialaugment": theirs.TrivialAugmentWide(),
}
EVERY_POLICY = pytest.mark.parametrize("policy", POLICIES)
EVERY_MODE = pytest.mark.parametrize("mode", ["RGB", "L"])


def noise(width: int, height: int, mode: str, seed: int = 0) -> Image.Image:
    """Smooth, with levels over most of the range."""
    random = np.random.default_rng(seed).integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), np.uint8)
    return Image.fromarray(random).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def applied_by_torchvision(image: Image.Image, steps: list[Step]) -> Image.Image:
    for operation, magnitude in steps:
        image = theirs._apply_op(image, operation, magnitude, NEAREST, None)
    return image


def assert_same_pixels(one: Image.Image, other: Image.Image) -> None:
    assert one.mode == other.mode
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def steps_of(policy: str, seed: int, size: tuple[int, int]) -> list[Step]:
    return policies.draw(policy, np.random.default_rng(seed), size, (2, 9))


def test_the_config_names_every_policy():
    assert {*FIELDS["data.policy"].words} == {"none", *POLICIES}


@EVERY_POLICY
@EVERY_MODE
def test_500_draws_give_the_pixels_of_torchvision(policy, mode):
    for seed in range(500):
        image = noise(24 + seed % 7, 20 + seed % 5, mode, seed)
        steps = steps_of(policy, seed, image.size)
        assert_same_pixels(operations.apply(image, steps), applied_by_torchvision(image, steps))


@EVERY_MODE
def test_every_operation_of_every_strength_gives_the_pixels_of_torchvision(mode):
    image = noise(37, 29, mode)
    for operation in OPERATIONS:
        for magnitudes in (policies.usual(image.size), policies.WIDE):
            for level in range(policies.LEVELS):
                magnitude = policies.magnitude(operation, magnitudes, level, policies.LEVELS)
                for sign in (1, -1) if operation in policies.SIGNED else (1,):
                    steps = [Step(operation, sign * magnitude)]
                    assert_same_pixels(operations.apply(image, steps), applied_by_torchvision(image, steps))


@EVERY_POLICY
def test_policies_draw_what_torchvision_draws(policy, monkeypatch):
    """torchvision takes its numbers from the same generator, and notes what it would apply."""
    rng, noted = np.random.default_rng(), []

    def integers(high, size, **_):
        return torch.tensor(rng.integers(0, high, size))

    def note(image, operation, magnitude, *_, **__):
        noted.append((operation, magnitude))
        return image

    monkeypatch.setattr(torch, "randint", integers)
    monkeypatch.setattr(torch, "rand", lambda size: torch.tensor(rng.random(size)))
    monkeypatch.setattr(theirs, "_apply_op", note)
    seen = set()
    for seed in range(500):
        rng = np.random.default_rng(seed)
        noted.clear()
        POLICIES[policy](Image.new("RGB", (50, 40)))
        steps = steps_of(policy, seed, (50, 40))
        assert [step.operation for step in steps] == [operation for operation, _ in noted]
        # torchvision computes its magnitudes in float32.
        np.testing.assert_allclose(
            [step.magnitude for step in steps], [magnitude for _, magnitude in noted], rtol=1e-5, atol=1e-5
        )
        seen |= {step.operation for step in steps}
    assert len(seen) >= 10


def test_a_policy_follows_the_crop_and_goes_before_the_colour_jitter():
    image, seed = noise(60, 50, "RGB"), 3
    view = View(32, random_resized_crop=True)
    rng = np.random.default_rng(seed)
    cropped = view.of(image, rng)
    steps = policies.draw("randaugment", rng, (32, 32), (3, 20))
    expected = View(32, color_jitter=0.5).of(operations.apply(cropped, steps), rng)
    whole = view._replace(policy="randaugment", randaugment=(3, 20), color_jitter=0.5)
    assert_same_pixels(whole.of(image, np.random.default_rng(seed)), expected)


@EVERY_POLICY
def test_images_that_are_not_for_training_are_left_alone(policy):
    image = noise(40, 30, "RGB")
    assert_same_pixels(View(32, policy=policy).of(image, None), View(32).of(image, None))


def test_without_a_policy_nothing_is_drawn():
    rng = np.random.default_rng(0)
    View(32).of(noise(40, 30, "RGB"), rng)
    assert rng.random() == np.random.default_rng(0).random()


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def test_a_flip_commutes_with_operations_up_to_the_sign_but_for_shear_y():
    image = noise(33, 33, "RGB")
    magnitudes = policies.usual(image.size)
    for operation in OPERATIONS:
        magnitude = policies.magnitude(operation, magnitudes, 17, policies.LEVELS)
        sign = -1 if operation in ("ShearX", "TranslateX", "Rotate") else 1
        flipped_last = mirrored(operations.apply(image, [Step(operation, magnitude)]))
        flipped_first = operations.apply(mirrored(image), [Step(operation, sign * magnitude)])
        same = (np.asarray(flipped_last) == np.asarray(flipped_first)).all(axis=-1).mean()
        # Which of two pixels is the nearest may differ where a place lies between them.
        assert same == 1 or operation in ("ShearX", "Rotate", "ShearY"), operation
        assert (same > 0.9) == (operation != "ShearY"), (operation, same)
