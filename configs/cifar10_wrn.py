"""Wide ResNet 28-10 on CIFAR-10 by the released recipe of DKS (CVPR 2019, arXiv:1906.00675).

    python -m dks_jax.train --config configs/cifar10_wrn.py
    python -m dks_jax.train --config configs/cifar10_wrn.py:baseline
    python -m dks_jax.train --config configs/cifar10_wrn.py --config.model.dropout=0.3 --workdir DIR

Methods: dks, ds, baseline, top_down, bottom_up. The recipe is that of configs/cifar100_wrn.py; errors on
CIFAR-10 are not reported for it.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "cifar", "name": "cifar10", "root": "data", "image_size": 32, "padding": 4}
    data |= {"mean": (125.3 / 255, 123.0 / 255, 113.9 / 255), "std": (63.0 / 255, 62.1 / 255, 66.7 / 255)}
    optimizer = {"schedule": "step", "drop_epochs": (60, 120, 160), "drop_factor": 0.2}
    optimizer |= {"reset_momentum_at_drops": True}
    model = {"name": "wide_resnet", "depth": 28, "width": 10}
    return ConfigDict({"method": method, "epochs": 200, "model": model, "data": data, "optimizer": optimizer})
