"""Wide ResNet 16-1 on the digits of scikit-learn, 40 % of them with a wrong label: minutes on a CPU.

    python -m dks_jax.train --config configs/digits_noise.py[:METHOD]

The wrong labels are the same for every method and seed; the log says how many are memorised. There is no
augmentation, without which wrong labels are learnt by heart. Methods: dks, ds, baseline, top_down, bottom_up.
docs/evidence.md has the same question put to another network with many seeds.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    return ConfigDict(
        {
            "method": method,
            "epochs": 40,
            "model": {"name": "wide_resnet", "depth": 16, "width": 1},
            "data": {
                "source": "digits",
                "image_size": 8,
                "batch_size": 64,
                "flip": False,
                "label_noise": 0.4,
                "mean": (0.305,),
                "std": (0.376,),
            },
            "optimizer": {"schedule": "cosine", "learning_rate": 0.05, "warmup_epochs": 0.5},
        }
    )
