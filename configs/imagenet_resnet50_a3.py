"""ResNet-50 on ImageNet by the recipe A3 of "ResNet strikes back", with the branches of DKS.

    python -m dks_jax.train --config configs/imagenet_resnet50_a3.py[:METHOD] --config.data.root=DIR

DIR is as for imagenet_resnet50. Methods: dks, ds, baseline, top_down, bottom_up.

Reported: 78.1 % top-1 accuracy of the plain network at 224. Nothing is reported with branches, and this
config has not been run to its end here.

Source: Wightman, Touvron, Jegou, "ResNet strikes back", arXiv:2110.00476, table 2: 100 epochs, batch 2048,
LAMB with rate 8e-3 after 5 epochs of warm-up, cosine, weight decay 0.02, binary cross-entropy with both
classes of a mixed image as targets, mixup 0.1 or CutMix 1.0, RandAugment of magnitude 6 (of 10), trained at
160, tested at 224 with a crop ratio of 0.95. LAMB clips the gradient at 1, and targets count from 0.2 on, as
in timm, by which it was trained. Different: RandAugment is torchvision's, without noise on the magnitude.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "tfds", "name": "imagenet2012", "streamed": True, "random_resized_crop": True}
    data |= {"preprocessing": "standard", "batch_size": 2048, "drop_last": True, "train_size": 160}
    data |= {"crop_ratio": 0.95, "interpolation": "bicubic", "policy": "randaugment", "randaugment": (2, 18)}
    optimizer = {"name": "lamb", "schedule": "cosine", "learning_rate": 8e-3, "warmup_epochs": 5.0}
    optimizer |= {"weight_decay": 0.02, "decay_norm_and_bias": False, "clip_norm": 1.0}
    return ConfigDict(
        {
            "method": method,
            "epochs": 100,
            "model": {"name": "resnet50"},
            "loss": {"binary": True, "binary_threshold": 0.2},
            "mixing": {"mixup": 0.1, "cutmix": 1.0},
            "data": data,
            "optimizer": optimizer,
        }
    )
