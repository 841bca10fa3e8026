"""Training at another size than evaluation, and what the weights say of how their images are seen."""

import json

import numpy as np
import pytest
from PIL import Image

from dks_jax import evaluate, predict
from dks_jax.data.decoding import decode
from dks_jax.models import Preprocessing
from dks_jax.weights import METADATA, load_network
from dks_jax.weights.metadata import from_json
from support.runs import records, run, train_on
from support.tiny_network import save_tiny

pytestmark = pytest.mark.usefixtures("tiny_model")

SEEN = ["preprocessing=standard", "crop_ratio=0.5", "interpolation=bicubic"]


@pytest.fixture
def trained(image_folder, tmp_path):
    """A run that trains on crops of 6 x 6 pixels, and evaluates on 8 x 8 of 16."""
    fields = ["streamed=True", "random_resized_crop=True", "padding=0", "train_size=6", "image_size=8"]
    fields += [*SEEN, "policy=autoaugment_imagenet", "random_erasing=0.5", "cutout=2"]
    assert train_on(image_folder, tmp_path / "run", *(f"--config.data.{field}" for field in fields)) == 0
    return tmp_path / "run"


def test_a_run_evaluates_at_its_own_size_crop_and_interpolation(trained, image_folder, tmp_path, capsys):
    log = (trained / "config.json").read_text()
    assert json.loads(log)["config"]["data"]["train_size"] == 6
    _, metadata = load_network(trained)
    own = metadata.preprocessing
    assert (own.name, own.shape, own.crop_ratio, own.interpolation) == ("standard", (8, 8, 3), 0.5, "bicubic")
    path = image_folder / "test" / "a" / "1.png"
    with Image.open(path) as image:
        # The short side, 10, is resized to 8 / 0.5; the long side, 12, to 19.2.
        resized = image.resize((19, 16), Image.Resampling.BICUBIC)
    # 5.5 columns are rounded to 6, the even number.
    np.testing.assert_array_equal(decode(path, metadata.view), np.asarray(resized)[4:12, 6:14])
    capsys.readouterr()
    assert evaluate.main([f"--weights={trained}", f"--output={tmp_path / 'result.json'}"]) == 0
    shown = capsys.readouterr().out
    assert "standard to 8x8x3, crop_ratio 0.5, interpolation bicubic, mean" in shown
    assert "differs" not in shown
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["nll"] == pytest.approx(records(trained)[-1]["cross_entropy/main"], rel=1e-5)
    assert (result["crop_ratio"], result["interpolation"]) == (0.5, "bicubic")
    assert predict.main([f"--weights={trained}", str(path)]) == 0
    assert "crop_ratio 0.5, interpolation bicubic" in capsys.readouterr().err


def test_an_evaluation_that_crops_otherwise_than_the_run_warns(trained, capsys):
    assert evaluate.main([f"--weights={trained}", "--config.data.crop_ratio=0.875"]) == 0
    assert "the preprocessing differs: crop ratio 0.875 here, 0.5 in the weights" in capsys.readouterr().out


def test_weights_name_crop_and_interpolation_only_where_they_are_unusual(tmp_path):
    save_tiny(tmp_path / "weights")
    fields = json.loads((tmp_path / "weights" / METADATA).read_text())
    assert {*fields["preprocessing"]} == {"name", "height", "width", "channels", "mean", "std"}
    usual = from_json(fields, has_branches=True).preprocessing
    assert (usual.crop_ratio, usual.interpolation) == (0.875, "bilinear")
    unusual = Preprocessing("dks", 8, 8, 1, (0.5,), (0.5,), crop_ratio=0.95, interpolation="bicubic")
    read = from_json(
        json.loads(json.dumps({**fields, "preprocessing": unusual.to_json()})), has_branches=True
    )
    assert read.preprocessing == unusual


@pytest.mark.slow
def test_digits_are_trained_on_with_a_policy(tmp_path):
    fields = ["--config.data.streamed=True", "--config.data.policy=randaugment", "--config.epochs=1"]
    assert run(tmp_path / "run", *fields) == 0
    assert len(records(tmp_path / "run")) == 2
