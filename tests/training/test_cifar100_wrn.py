"""The configs for CIFAR-100 on files in its format."""

import pytest

from dks_jax import train
from support.cifar_files import batches, write_python
from support.runs import CONFIGS, assert_falling, losses, records

pytestmark = pytest.mark.usefixtures("quick_compilation")

# ln 100 = 4.6 is the cross-entropy of an even guess; three of them, and divergences of order one.
FEWEST, MOST = 10, 60


@pytest.fixture
def cifar100(tmp_path):
    """A folder with eight training and eight test images of random pixels."""
    write_python(tmp_path / "data", "cifar100", batches("cifar100", 8))
    return tmp_path / "data"


def assert_takes_two_real_steps(root, workdir, *fields):
    fields = [f"data.root={root}", "data.batch_size=4", "epochs=1", *fields]
    arguments = [f"--config={CONFIGS}/cifar100_wrn.py", f"--workdir={workdir}"]
    assert train.main([*arguments, *(f"--config.{field}" for field in fields)]) == 0
    line = records(workdir)[0]
    assert line["step"] == 2
    assert FEWEST < line["loss"] < MOST
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
def test_the_loss_of_the_other_networks_falls_with_all_their_parameters(
    cifar100, tmp_path, name, parameters, capsys
):
    # One batch of all images. The rate is that of the recipes for 128 images, in proportion to the batch:
    # ResNet-110 leaps away from its first loss at a rate of 0.1 even in PyTorch.
    fields = [f"data.root={cifar100}", "data.batch_size=8", "optimizer.learning_rate=0.00625", "epochs=4"]
    arguments = [f"--config={CONFIGS}/cifar100_{name}.py", f"--workdir={tmp_path / 'run'}"]
    assert train.main([*arguments, *(f"--config.{field}" for field in fields)]) == 0
    assert parameters in capsys.readouterr().out
    found = losses(tmp_path / "run")
    assert len(found) == 4
    assert FEWEST < found[0] < MOST
    assert_falling(found)
