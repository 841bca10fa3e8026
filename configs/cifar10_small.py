"""Wide ResNet 16-1 on part of CIFAR-10 as an image folder: a run on real photographs for two CPU cores.

    python -m dks_jax.train --config configs/cifar10_small.py --config.data.root=DIR
    python -m dks_jax.train --config configs/cifar10_small.py:baseline --config.data.root=DIR

DIR holds train/<class>/<image> and test/<class>/<image> of 32x32 pixels. The first 1,000 training and 200
held-out images of every class are used. Methods: dks, ds, baseline, top_down, bottom_up.

Expected, seed 0: a test error of 37.35 % after 20 minutes, the baseline 36.45 % after 12, on 2 busy CPU cores
(JPEG copies of CIFAR-10, 2026-11-22). A network this narrow underfits, and the method regularises: no gain
over the baseline is to be expected here.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    return ConfigDict(
        {
            "method": method,
            "epochs": 10,
            "model": {"name": "wide_resnet", "depth": 16, "width": 1},
            "data": {
                "source": "folder",
                "root": "data/cifar10",
                "image_size": 32,
                "train_per_class": 1000,
                "test_per_class": 200,
                "padding": 4,
                "mean": (125.3 / 255, 123.0 / 255, 113.9 / 255),
                "std": (63.0 / 255, 62.1 / 255, 66.7 / 255),
            },
            # The rate falls along a cosine and never drops.
            "optimizer": {"schedule": "cosine", "warmup_epochs": 0.5, "drop_factor": 1.0},
        }
    )
