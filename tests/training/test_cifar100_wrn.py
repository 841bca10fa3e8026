"""The configs for CIFAR-100 on files in its format."""

import pytest

from dks_jax import train
from support.cifar_files import batches, write_python
from support.runs import CONFIGS, records

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def cifar100(tmp_path):
    """A folder with eight training and eight test images of random pixels."""
    write_python(tmp_path / "data", "cifar100", batches("cifar100", 8))
    return tmp_path / "data"


def assert_takes_two_real_steps(root, workdir, *fields, config="cifar100_wrn"):
    fields = [f"data.root={root}", "data.batch_size=4", "epochs=1", *fields]
    arguments = [f"--config={CONFIGS / config}.py", f"--workdir={workdir}"]
    assert train.main([*arguments, *(f"--config.{field}" for field in fields)]) == 0
    line = records(workdir)[0]
    assert line["step"] == 2
    # ln 100 = 4.6 is the cross-entropy of an even guess; three of them, and divergences of order one.
    assert 10 < line["loss"] < 60
    assert line["learning_rate"] == pytest.approx(0.1)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_the_released_recipe_takes_real_steps_at_a_small_size(cifar100, tmp_path, precision):
    small = ["model.depth=16", "model.width=1", f"precision={precision}"]
    assert_takes_two_real_steps(cifar100, tmp_path / "run", *small)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_wrn_28_10_takes_real_steps_with_all_its_parameters(cifar100, tmp_path, precision, capsys):
    assert_takes_two_real_steps(cifar100, tmp_path / "run", f"precision={precision}")
    # As published.
    output = capsys.readouterr().out
    assert "164,146,364" in output
    assert "36,536,884" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet32", "470,004"),
        ("resnet110", "1,733,812"),
        ("densenet40", "1,060,132"),
        ("densenet_bc100", "800,032"),
        ("mobilenet", "3,309,476"),
        ("wrn16_8", "11,007,540"),
    ],
)
def test_the_other_networks_take_real_steps_with_all_their_parameters(
    cifar100, tmp_path, name, parameters, capsys
):
    assert_takes_two_real_steps(cifar100, tmp_path / "run", config=f"cifar100_{name}")
    assert parameters in capsys.readouterr().out
