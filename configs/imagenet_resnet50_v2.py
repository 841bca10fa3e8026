"""ResNet-50 on ImageNet by torchvision's recipe of 2021 (weights IMAGENET1K_V2), with the branches of DKS.

    python -m dks_jax.train --config configs/imagenet_resnet50_v2.py[:METHOD] --config.data.root=DIR

DIR is as for imagenet_resnet50. Methods: dks, ds, baseline, top_down, bottom_up.

Reported: 19.14 % top-1 error of the plain network (torchvision 0.28.0, models/resnet.py). Nothing is reported
with branches, and this config has not been run to its end here.

Source: V. Vryniotis, "How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives", 2021,
https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives/. 600
epochs, batch 1024, SGD 0.5 after 5 epochs of warm-up, cosine, weight decay 2e-5 (none on normalisation),
label smoothing 0.1, mixup 0.2 or CutMix 1.0, TrivialAugment, random erasing 0.1, trained at 176, tested at
224 of 232, EMA. Its EMA moves every 32 steps; the decay here is the same for each step. Left out: its
repeated augmentation. Different: the bias of the linear layer does not decay here either.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "tfds", "name": "imagenet2012", "streamed": True, "random_resized_crop": True}
    data |= {"preprocessing": "standard", "batch_size": 1024, "drop_last": True}
    data |= {"train_size": 176, "crop_ratio": 224 / 232, "policy": "trivialaugment", "random_erasing": 0.1}
    optimizer = {"schedule": "cosine", "learning_rate": 0.5, "warmup_epochs": 5.0}
    optimizer |= {"weight_decay": 2e-5, "decay_norm_and_bias": False}
    return ConfigDict(
        {
            "method": method,
            "epochs": 600,
            "ema_decay": 0.999966,
            "model": {"name": "resnet50"},
            "loss": {"label_smoothing": 0.1},
            "mixing": {"mixup": 0.2, "cutmix": 1.0},
            "data": data,
            "optimizer": optimizer,
        }
    )
