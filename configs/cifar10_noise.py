"""Wide ResNet 16-1 on a few CIFAR-10 images, 40 % of them with a wrong label: what does a method memorise?

    python -m dks_jax.train --config configs/cifar10_noise.py --config.data.root=DIR
    python -m dks_jax.train --config configs/cifar10_noise.py:baseline --config.data.root=DIR

DIR holds train/<class>/<image> and test/<class>/<image> of 32x32 pixels, which are resized to 16x16. The
first 200 training and 100 held-out images of every class are used. The wrong labels are the same for every
method and seed. Methods: dks, ds, baseline, top_down, bottom_up. docs/evidence.md has what came of it.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    return ConfigDict(
        {
            "method": method,
            "epochs": 60,
            "model": {"name": "wide_resnet", "depth": 16, "width": 1},
            "data": {
                "source": "folder",
                "root": "data/cifar10",
                "image_size": 16,
                "train_per_class": 200,
                "test_per_class": 100,
                "batch_size": 64,
                "flip": False,
                "label_noise": 0.4,
                "mean": (125.3 / 255, 123.0 / 255, 113.9 / 255),
                "std": (63.0 / 255, 62.1 / 255, 66.7 / 255),
            },
            "optimizer": {"schedule": "cosine", "warmup_epochs": 0.5},
        }
    )
