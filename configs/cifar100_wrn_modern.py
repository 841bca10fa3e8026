"""Wide ResNet 28-10 on CIFAR-100 with label smoothing, CutMix, TrivialAugment, a moving average and a cosine.

    python -m dks_jax.train --config configs/cifar100_wrn_modern.py[:METHOD] --config.data.root=DIR

DIR holds or receives the archive of CIFAR-100. Methods: dks, ds, baseline, top_down, bottom_up.

The recipe is put together here and of no publication; network, batch, weight decay, padding and rate are
those of cifar100_wrn, the rate falls along a cosine. It has not been run to its end here. Published for
comparison, in accuracy of other networks: PreAct ResNet-18, cross-entropy 76.24, DKS 78.64, label smoothing
78.72, CutMix 80.17 (README of github.com/winycg/Self-KD-Lib); whether the synergy adds to such a recipe is
not reported.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    return ConfigDict(
        {
            "method": method,
            "epochs": 200,
            "ema_decay": 0.999,
            "model": {"name": "wide_resnet", "depth": 28, "width": 10},
            "loss": {"label_smoothing": 0.1},
            "mixing": {"cutmix": 1.0, "probability": 0.5},
            "data": {
                "source": "cifar",
                "name": "cifar100",
                "root": "data",
                "image_size": 32,
                # The policy works on the host.
                "streamed": True,
                "policy": "trivialaugment",
                "padding": 4,
                "mean": (125.3 / 255, 123.0 / 255, 113.9 / 255),
                "std": (63.0 / 255, 62.1 / 255, 66.7 / 255),
            },
            "optimizer": {"schedule": "cosine", "warmup_epochs": 5.0, "nesterov": True},
        }
    )
