"""Wide ResNet 28-10 on CIFAR-10 by the released recipe of DKS (CVPR 2019, arXiv:1906.00675).

    python -m dks_jax.train --config configs/cifar10_wrn.py
    python -m dks_jax.train --config configs/cifar10_wrn.py:baseline
    python -m dks_jax.train --config configs/cifar10_wrn.py --config.model.dropout=0.3 --workdir DIR

Methods: dks, ds, baseline, top_down, bottom_up. The recipe is that of configs/cifar100_wrn.py; errors on
CIFAR-10 are not reported for it.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    return ConfigDict(
        {
            "method": method,
            "seed": 0,
            "epochs": 200,
            "precision": "float32",
            "deterministic": False,
            "remat": False,
            "norm_groups": 1,
            "checkpoint_every_epochs": 1,
            "checkpoint_every_minutes": 10.0,
            "init_weights": "",
            "init_optimizer": False,
            "data": {
                "source": "cifar",
                "name": "cifar10",
                "root": "data",
                "streamed": False,
                "image_size": 32,
                "preprocessing": "squash",
                "train_per_class": 0,
                "test_per_class": 0,
                "batch_size": 128,
                "drop_last": False,
                "padding": 4,
                "pad_mode": "reflect",
                "flip": True,
                "random_resized_crop": False,
                "color_jitter": 0.0,
                "mean": (125.3 / 255, 123.0 / 255, 113.9 / 255),
                "std": (63.0 / 255, 62.1 / 255, 66.7 / 255),
            },
            "model": {
                "name": "wide_resnet",
                "depth": 28,
                "width": 10,
                "dropout": 0.0,
            },
            "synergy": {
                "alpha": 1.0,
                "temperature": 1.0,
                "epsilon": 1e-8,
            },
            "optimizer": {
                "schedule": "step",
                "learning_rate": 0.1,
                "warmup_epochs": 0.0,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "clip_norm": 0.0,
                "decay_norm_and_bias": True,
                "drop_epochs": (60, 120, 160),
                "drop_factor": 0.2,
                "reset_momentum_at_drops": True,
            },
        }
    )
