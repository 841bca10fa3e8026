"""DenseNet-BC-100-12 on CIFAR-100 by the recipe of DHM (CVPR 2020, arXiv:2003.10739), with branches of DKS.

    python -m dks_jax.train --config configs/cifar100_densenet_bc100.py
    python -m dks_jax.train --config configs/cifar100_densenet_bc100.py:baseline

Reported top-1 error, %: baseline 22.27 by its authors, with the same augmentation (README of
github.com/liuzhuang13/DenseNet); of deep supervision and of DKS no figure was found. This config has not been
run to its end here.

Methods: dks, ds, baseline, top_down, bottom_up. The recipe is that of the code released with DHM
(github.com/d-li14/DHM): 300 epochs, batch 64, the last partial batch kept, learning rate 0.1 and x 0.1 after
150 and 225 whole epochs with the momentum kept, momentum 0.9 without Nesterov, weight decay 1e-4 on every
trainable tensor, zero padding of 4 with random crop and flip, no dropout, weights and temperature of the
synergy 1, and probabilities smoothed as by DKS. Mean and deviation are those of CIFAR-10 there, for CIFAR-100
too. The release of DKS has no code for this network, and no source at hand states its own recipe.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "cifar", "name": "cifar100", "root": "data", "image_size": 32, "batch_size": 64}
    data |= {"padding": 4, "pad_mode": "zero"}
    data |= {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
    # A drop takes effect at the start of its epoch, counted from 1.
    optimizer = {"schedule": "step", "drop_epochs": (151, 226), "drop_factor": 0.1, "weight_decay": 1e-4}
    model = {"name": "densenet", "depth": 100, "growth_rate": 12, "bottleneck": True, "compression": 0.5}
    return ConfigDict({"method": method, "epochs": 300, "model": model, "data": data, "optimizer": optimizer})
