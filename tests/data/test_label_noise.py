"""Label noise: as many wrong labels as asked for, the same for every run, from numbers or a file."""

import shutil

import numpy as np
import pytest

from dks_jax.data import label_noise
from support.runs import records, run, train_on, user_error

COUNT, CLASSES = 2000, 7


def true_labels():
    return np.random.default_rng(0).integers(0, CLASSES, COUNT).astype(np.int32)


def chosen(rate):
    return np.random.default_rng(1).permutation(COUNT)[: round(rate * COUNT)]


def test_symmetric_noise_gives_exactly_the_chosen_another_class_and_each_as_often():
    labels, every = true_labels(), np.arange(COUNT)
    relabel = label_noise.symmetric(chosen(0.4), COUNT, CLASSES, seed=3)
    given = relabel(every, labels)
    assert given.dtype == labels.dtype
    assert set(np.flatnonzero(given != labels)) == set(chosen(0.4))
    assert given.min() >= 0
    assert given.max() < CLASSES
    # How far the classes are shifted, 800 draws of 6 values: 133 each, with a deviation of 10.5.
    shifts = np.bincount((given - labels)[given != labels] % CLASSES, minlength=CLASSES)
    assert shifts[0] == 0
    assert abs(shifts[1:] - 800 / 6).max() < 45
    # In any order and part, as a feed asks for them.
    some = np.array([5, 1999, 3])
    np.testing.assert_array_equal(relabel(some, labels[some]), given[some])


def test_asymmetric_noise_maps_chosen_images_of_the_mapped_classes_alone():
    labels, every = true_labels(), np.arange(COUNT)
    given = label_noise.asymmetric(chosen(0.5), {0: 1, 2: 0}, COUNT, CLASSES)(every, labels)
    is_chosen = np.isin(every, chosen(0.5))
    for true, expected in ((0, 1), (2, 0)):
        assert set(given[is_chosen & (labels == true)]) == {expected}
    kept = ~is_chosen | ~np.isin(labels, (0, 2))
    np.testing.assert_array_equal(given[kept], labels[kept])


def test_a_file_names_images_and_classes(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("train/a/1.png,b\ntrain/b/2.png,a\n")
    names = ["train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png"]
    relabel = label_noise.from_file(file, names, ("a", "b"))
    np.testing.assert_array_equal(relabel(np.arange(4), np.array([0, 0, 1, 1])), [1, 0, 1, 0])


def test_of_one_class_there_is_no_wrong_label(image_folder, tmp_path, tiny_model, capsys):
    for split in ("train", "test"):
        shutil.rmtree(image_folder / split / "b")
    flags = ["--config.data.label_noise=0.5", "--config.data.image_size=8", "--config.data.batch_size=2"]
    assert train_on(image_folder, tmp_path / "run", *flags) == 2
    assert "`data.label_noise` must be 0 where the images have one class" in user_error(capsys)
    assert not (tmp_path / "run").exists()


def noise_of(workdir):
    last = [record for record in records(workdir) if record["split"] == "train"][-1]
    return {
        name.removeprefix("label_noise/"): v for name, v in last.items() if name.startswith("label_noise")
    }


def test_the_log_tells_clean_from_wrong_labels_and_every_seed_sees_the_same(tmp_path, tiny_model):
    assert run(tmp_path / "plain") == 0
    assert noise_of(tmp_path / "plain") == {}
    assert run(tmp_path / "none", "--config.data.label_noise=0.0") == 0
    assert records(tmp_path / "none")[-1]["loss"] == records(tmp_path / "plain")[-1]["loss"]
    assert run(tmp_path / "noisy", "--config.data.label_noise=0.4") == 0
    noise = noise_of(tmp_path / "noisy")
    assert sorted(noise) == ["clean_error", "memorised", "wrong_error"]
    # Of 100 images 40 have a wrong label and 60 a right one, and the true class is not the wrong label.
    assert noise["memorised"] * 40 / 100 == pytest.approx(round(noise["memorised"] * 40 / 100))
    assert noise["clean_error"] * 60 / 100 == pytest.approx(round(noise["clean_error"] * 60 / 100))
    assert noise["memorised"] <= noise["wrong_error"]
    train = [record for record in records(tmp_path / "noisy") if record["split"] == "train"][-1]
    # The error by the labels that are given: those of clean ones, and the wrong ones that are not predicted.
    expected = (60 * noise["clean_error"] + 40 * (100 - noise["memorised"])) / 100
    assert train["error"] == pytest.approx(expected)


@pytest.mark.slow
def test_streamed_images_have_the_labels_of_those_in_memory(image_folder, tmp_path, tiny_model):
    noise = ["--config.data.label_noise=0.5", "--config.data.image_size=8"]
    losses = []
    for streamed in (True, False):
        workdir = tmp_path / str(streamed)
        assert train_on(image_folder, workdir, *noise, f"--config.data.streamed={streamed}") == 0
        losses.append([record["loss"] for record in records(workdir)])
    assert losses[0] == losses[1]


def test_a_run_does_not_go_on_with_another_file_of_labels(image_folder, tmp_path, tiny_model, capsys):
    file = tmp_path / "labels.csv"
    file.write_text("train/a/1.png,b\n")
    flags = [f"--config.data.labels_file={file}", "--config.data.image_size=8"]
    assert train_on(image_folder, tmp_path / "run", *flags) == 0
    file.write_text("train/a/2.png,b\n")
    capsys.readouterr()
    assert train_on(image_folder, tmp_path / "run", *flags, "--config.epochs=2") == 2
    assert "given_labels" in user_error(capsys)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (["label_noise=1.5"], ["`data.label_noise`", "1.5"]),
        (["label_noise=0.1", "label_noise_map=(('a','c'),)"], ["`data.label_noise_map`", "'c'", "'a'"]),
        (["label_noise=0.1", "label_noise_map=((1, 2),)"], ["`data.label_noise_map`", "pairs"]),
        (["label_noise_map=(('a','b'),)"], ["`data.label_noise`", "above 0"]),
        (["labels_file=absent.csv"], ["`data.labels_file`", "absent.csv"]),
        (["labels_file=labels.csv", "label_noise=0.1"], ["`data.label_noise`", "0", "`data.labels_file`"]),
        (["labels_file=labels.csv"], ["Line 2", "train/a/1.png", "train/a/9.png"]),
    ],
)
@pytest.mark.usefixtures("tiny_model")
def test_wrong_noise_is_one_sentence(image_folder, tmp_path, capsys, fields, named):
    (tmp_path / "labels.csv").write_text("train/a/1.png,b\ntrain/a/9.png,b\n")
    fields = [field.replace("file=", f"file={tmp_path}/") for field in fields]
    flags = [f"--config.data.{field}" for field in [*fields, "image_size=8"]]
    assert train_on(image_folder, tmp_path / "run", *flags) == 2
    error = user_error(capsys)
    assert all(text in error for text in named), error
    assert not (tmp_path / "run").exists()
