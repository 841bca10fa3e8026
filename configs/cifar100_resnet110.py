"""ResNet-110 on CIFAR-100 by the recipe of DHM (CVPR 2020, arXiv:2003.10739), with the branches of DKS.

    python -m dks_jax.train --config configs/cifar100_resnet110.py
    python -m dks_jax.train --config configs/cifar100_resnet110.py:baseline

Reported top-1 error, %, of DKS's paper (CVPR 2019, arXiv:1906.00675), second-hand: baseline 27.66, deep
supervision 26.95, DKS 24.98. These are the published figures; this config has not been run to its end here.

Methods: dks, ds, baseline, top_down, bottom_up. The recipe is that of the code released with DHM
(github.com/d-li14/DHM): 164 epochs, batch 128, the last partial batch kept, learning rate 0.1 and x 0.1 after
81 and 122 whole epochs with the momentum kept, momentum 0.9 without Nesterov, weight decay 1e-4 on every
trainable tensor, zero padding of 4 with random crop and flip, weights and temperature of the synergy 1, and
probabilities smoothed as by DKS. Mean and deviation are those of CIFAR-10 there, for CIFAR-100 too. The
release of DKS has no code for this network, and no source at hand states its own recipe.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "cifar", "name": "cifar100", "root": "data", "image_size": 32}
    data |= {"padding": 4, "pad_mode": "zero"}
    data |= {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
    # A drop takes effect at the start of its epoch, counted from 1.
    optimizer = {"schedule": "step", "drop_epochs": (82, 123), "drop_factor": 0.1, "weight_decay": 1e-4}
    model = {"name": "cifar_resnet", "depth": 110}
    return ConfigDict({"method": method, "epochs": 164, "model": model, "data": data, "optimizer": optimizer})
