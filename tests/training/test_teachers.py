"""Frozen teachers: plain distillation, synergy and both in one loss, without gradient or state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from dks_jax import InputError, all_pairs, no_pairs, objective
from dks_jax.models import Preprocessing
from dks_jax.nn import Functional
from dks_jax.synergy import teaching_matrix
from dks_jax.training.teachers import Teacher, Teachers
from dks_jax.weights import load_weights, save_weights
from support.comparison import assert_same_bits
from support.runs import records, run, train_on, user_error
from support.tiny_network import tiny_network

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES = 5
LOGITS = np.random.default_rng(0).standard_normal((3, 6, CLASSES))
FROZEN = np.random.default_rng(1).standard_normal((2, 6, CLASSES))
LABELS = np.random.default_rng(2).integers(0, CLASSES, 6)


def kl(teacher, student, temperature=1.0):
    teacher, student = (torch.log_softmax(torch.tensor(z) / temperature, -1) for z in (teacher, student))
    return float(functional.kl_div(student, teacher, reduction="batchmean", log_target=True))


def test_plain_distillation_is_hintons_loss():
    with jax.enable_x64(True):
        total, terms = objective(
            LOGITS[-1:], LABELS, [[0], [1]], alpha=0.5, temperature=4.0, teachers=FROZEN[:1]
        )
    expected = float(functional.cross_entropy(torch.tensor(LOGITS[-1]), torch.tensor(LABELS)))
    expected += 0.5 * 16 * kl(FROZEN[0], LOGITS[-1], 4.0)
    np.testing.assert_allclose(float(total), expected, rtol=1e-12)
    assert set(terms) == {"cross_entropy/main", "kl/teacher1->main"}


def test_frozen_teachers_are_further_rows_beside_the_synergy():
    rows = np.array([[0.5, 0.0, 1.0], [0.0, 2.0, 1.0]])
    with jax.enable_x64(True):
        alone, _ = objective(LOGITS, LABELS, all_pairs(3))
        total, _ = objective(LOGITS, LABELS, np.vstack([all_pairs(3), rows]), teachers=FROZEN)
    taught = sum(rows[t, s] * kl(FROZEN[t], LOGITS[s]) for t in range(2) for s in range(3))
    np.testing.assert_allclose(float(total) - float(alone), taught, rtol=1e-10)


def test_no_gradient_reaches_a_teacher_and_a_teacher_like_the_student_teaches_nothing():
    def loss(logits, frozen):
        return objective(logits, LABELS, [[0], [1]], teachers=frozen)[0]

    assert not np.any(jax.grad(loss, argnums=1)(LOGITS[-1:], FROZEN[:1]))
    _, terms = objective(LOGITS[-1:], LABELS, [[0], [1]], teachers=LOGITS[-1:])
    assert abs(float(terms["kl/teacher1->main"])) < 1e-6


def test_rows_of_teachers_are_appended_with_weight_one():
    np.testing.assert_array_equal(teaching_matrix("no_pairs", 2, 1), [[0, 0], [0, 0], [1, 1]])
    np.testing.assert_array_equal(teaching_matrix(((0, 2), (3, 0)), 2, 1), [[0, 2], [3, 0], [1, 1]])
    np.testing.assert_array_equal(teaching_matrix(((0, 2), (3, 0), (0, 5)), 2, 1), [[0, 2], [3, 0], [0, 5]])
    with pytest.raises(InputError, match="1 frozen teachers"):
        teaching_matrix(((0, 2),), 2, 1)
    np.testing.assert_array_equal(teaching_matrix("no_pairs", 3), no_pairs(3))


def test_a_teacher_sees_images_in_its_own_normalisation_and_size_and_answers_in_the_order_of_the_classes():
    network = tiny_network(CLASSES).drop_branches()
    own = Functional(network)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    pixels = np.random.default_rng(3).random((4, 8, 8, 3)).astype(np.float32)
    order = np.array([3, 1, 0])
    preprocessing = Preprocessing("squash", 16, 16, 3, mean, std)
    teachers = Teachers([Teacher(own, preprocessing, order)], (0.1, 0.1, 0.1), (0.7, 0.7, 0.7))
    found = teachers.logits(teachers.arrays, jnp.asarray((pixels - 0.1) / 0.7))
    # torch resizes alike where an image grows.
    large = functional.interpolate(torch.tensor(pixels).permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")
    seen = (large.permute(0, 2, 3, 1).numpy() - mean) / std
    expected = own.eval(own.params, own.batch_stats, jnp.asarray(seen, jnp.float32))[-1][:, order]
    np.testing.assert_allclose(found[0], expected, rtol=2e-5, atol=2e-5)


def test_a_run_teaches_another_one_and_leaves_no_trace_in_its_weights(tmp_path, tiny_model, capsys):
    assert run(tmp_path / "teacher") == 0
    flags = [f"--config.synergy.teachers=('{tmp_path / 'teacher'}',)"]
    assert run(tmp_path / "taught", *flags) == 0
    train, test = records(tmp_path / "taught")[-2:]
    assert train["kl/teacher1->main"] > 0
    assert not any("teacher" in name for name in test)
    assert "teacher 1:" in capsys.readouterr().out
    # The weights of both have the same names.
    saved = [load_weights(tmp_path / name) for name in ("taught", "teacher")]
    assert saved[0].params.keys() == saved[1].params.keys()
    # A run does not go on with another teacher under the same path.
    other = saved[1]._replace(params={name: array + 1 for name, array in saved[1].params.items()})
    save_weights(tmp_path / "other", other)
    (tmp_path / "teacher").rename(tmp_path / "first")
    (tmp_path / "other").rename(tmp_path / "teacher")
    capsys.readouterr()
    assert run(tmp_path / "taught", *flags, "--config.epochs=9") == 2
    assert "given_teachers" in user_error(capsys)
    # With alpha 0 a teacher changes nothing.
    zero = "--config.synergy.alpha=0.0"
    assert run(tmp_path / "zero", *flags, zero) == 0
    assert run(tmp_path / "untaught", zero) == 0
    assert_same_bits(*(records(tmp_path / name)[-1]["loss"] for name in ("zero", "untaught")))


def test_a_teacher_with_other_classes_or_channels_is_refused(tmp_path, image_folder, tiny_model, capsys):
    assert run(tmp_path / "digits") == 0
    capsys.readouterr()
    flags = [f"--config.synergy.teachers=('{tmp_path / 'digits'}',)", "--config.data.image_size=8"]
    assert train_on(image_folder, tmp_path / "grey", *flags) == 2
    assert "`synergy.teachers`" in user_error(capsys)
    grey = ["--config.data.channels=1", "--config.data.mean=(0.5,)", "--config.data.std=(0.25,)"]
    assert train_on(image_folder, tmp_path / "classes", *flags, *grey) == 2
    error = user_error(capsys)
    assert "`synergy.teachers` must know the classes" in error
    assert "has 10" in error
    assert run(tmp_path / "absent", "--config.synergy.teachers=('absent',)") == 2
    assert "absent" in user_error(capsys)
    # Before the data are looked for.
    assert train_on(tmp_path / "no images", tmp_path / "early", "--config.synergy.teachers=('absent',)") == 2
    assert "There are no weights at absent" in user_error(capsys)
