"""Wide ResNet 16-1 with DKS on scikit-learn's bundled handwritten digits: the example that needs no download.

    python -m dks_jax.train --config configs/digits_wrn.py

Expected: a test error below 3 % (seed 0: 0.83 %), in about two minutes on 2 CPU cores (2026-11-22).
1437 training and 360 held-out images of 8x8 pixels; the last partial batch of an epoch is dropped, so that
any number of devices that divides 64 will do. Methods: dks, ds, baseline, top_down, bottom_up.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    return ConfigDict(
        {
            "method": method,
            "seed": 0,
            "epochs": 40,
            "precision": "float32",
            "deterministic": False,
            "remat": False,
            "norm_groups": 1,
            "checkpoint_every_epochs": 5,
            "checkpoint_every_minutes": 0.0,
            "init_weights": "",
            "init_optimizer": False,
            "data": {
                "source": "digits",
                "name": "",
                "root": "",
                "streamed": False,
                "image_size": 8,
                "preprocessing": "squash",
                "train_per_class": 0,
                "test_per_class": 0,
                "batch_size": 64,
                "drop_last": True,
                "padding": 1,
                "pad_mode": "zero",
                "flip": False,
                "random_resized_crop": False,
                "color_jitter": 0.0,
                "mean": (0.305,),
                "std": (0.376,),
            },
            "model": {
                "name": "wide_resnet",
                "depth": 16,
                "width": 1,
                "dropout": 0.0,
            },
            "synergy": {
                "alpha": 1.0,
                "temperature": 1.0,
                "epsilon": 1e-8,
            },
            "optimizer": {
                "schedule": "cosine",
                "learning_rate": 0.1,
                "warmup_epochs": 0.5,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "clip_norm": 0.0,
                "decay_norm_and_bias": True,
                "drop_epochs": (),
                "drop_factor": 1.0,
                "reset_momentum_at_drops": False,
            },
        }
    )
