"""Wide ResNet 16-8 on CIFAR-100 by the recipe and the initial values of DHM (CVPR 2020, arXiv:2003.10739).

    python -m dks_jax.train --config configs/cifar100_wrn16_8.py
    python -m dks_jax.train --config configs/cifar100_wrn16_8.py:baseline

Reported top-1 error, %: no figure of this network was found. This config has not been run to its end here.

Methods: dks, ds, baseline, top_down, bottom_up. The recipe is that of the code released with DHM
(github.com/d-li14/DHM) for WRN-28-10: 200 epochs, batch 128, the last partial batch kept, learning rate 0.1
and x 0.2 after 60, 120 and 160 whole epochs with the momentum kept, momentum 0.9 without Nesterov, weight
decay 5e-4 on every trainable tensor, zero padding of 4 with random crop and flip, weights and temperature of
the synergy 1, and probabilities smoothed as by DKS. Mean and deviation are those of CIFAR-10 there, for
CIFAR-100 too. Its `--dropout` never reaches the network, hence none here. No source at hand states a recipe
for this depth and width. The recipe of DKS for the same architecture, which differs in padding, drops,
momentum and initial values, is configs/cifar100_wrn.py.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "cifar", "name": "cifar100", "root": "data", "image_size": 32}
    data |= {"padding": 4, "pad_mode": "zero"}
    data |= {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
    # A drop takes effect at the start of its epoch, counted from 1.
    optimizer = {"schedule": "step", "drop_epochs": (61, 121, 161), "drop_factor": 0.2}
    model = {"name": "wide_resnet", "depth": 16, "width": 8, "initialisation": "dhm"}
    return ConfigDict({"method": method, "epochs": 200, "model": model, "data": data, "optimizer": optimizer})
