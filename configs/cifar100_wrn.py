"""Wide ResNet 28-10 on CIFAR-100 by the released recipe of DKS (CVPR 2019, arXiv:1906.00675).

    python -m dks_jax.train --config configs/cifar100_wrn.py
    python -m dks_jax.train --config configs/cifar100_wrn.py:baseline
    python -m dks_jax.train --config configs/cifar100_wrn.py --config.model.dropout=0.3 --workdir DIR

Reported top-1 error, %, mean and standard deviation of 5 runs (README of github.com/sundw2014/DKS):
baseline 18.72 +/- 0.24, DKS 17.24 +/- 0.22; with dropout 18.64 +/- 0.19 and 16.71 +/- 0.17. These are the
published figures; this config has not been run to its end here.

Methods: dks, ds, baseline, top_down, bottom_up. The recipe, quirks included: weight decay on every
trainable tensor, no Nesterov momentum, the last partial batch kept, the momentum set to zero where the
learning rate drops, and drops that take effect as epochs 60, 120 and 160 start, counted from 1.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    return ConfigDict(
        {
            "method": method,
            "epochs": 200,
            "data": {
                "source": "cifar",
                "name": "cifar100",
                "root": "data",
                "image_size": 32,
                "padding": 4,
                "mean": (125.3 / 255, 123.0 / 255, 113.9 / 255),
                "std": (63.0 / 255, 62.1 / 255, 66.7 / 255),
            },
            "model": {"name": "wide_resnet", "depth": 28, "width": 10},
            "optimizer": {
                "schedule": "step",
                "drop_epochs": (60, 120, 160),
                "drop_factor": 0.2,
                "reset_momentum_at_drops": True,
            },
        }
    )
