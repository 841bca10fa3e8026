"""ResNet-152 on ImageNet by the recipe and the commands of configs/imagenet_resnet50.py, and colour jitter.

Reported single-crop errors, top-1 / top-5, % (README of github.com/sundw2014/DKS): baseline 22.45 / 5.94, DKS
20.98 / 5.28; deep supervision 21.99 top-1 (second-hand). README of github.com/d-li14/DHM: deep supervision
21.60, DHM 20.81 top-1. This config has not been run to its end here.

For this network the authors of DKS used "stronger data augmentation", which the release does not specify.
Here it is `color_jitter`: brightness, contrast and saturation, each changed by up to 40 %, in random order,
as the ResNet training code of Facebook did (github.com/facebookarchive/fb.resnet.torch, without its lighting
noise). --config.data.color_jitter=0 leaves it out.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "tfds", "name": "imagenet2012", "streamed": True, "random_resized_crop": True}
    data |= {"preprocessing": "dks", "batch_size": 256, "drop_last": True, "color_jitter": 0.4}
    optimizer = {"schedule": "step", "weight_decay": 1e-4, "drop_epochs": (31, 61, 91), "drop_factor": 0.1}
    return ConfigDict(
        {"method": method, "model": {"name": "resnet152"}, "data": data, "optimizer": optimizer}
    )
