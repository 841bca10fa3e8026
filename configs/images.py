"""ResNet-18 on a folder of your own images: the config to start from.

    python -m dks_jax.train --config configs/images.py --config.data.root=DIR
    python -m dks_jax.train --config configs/images.py --config.data.root=DIR --config.init_weights=FILE

DIR holds train/<class>/<image> and val/<class>/<image>, and may hold test/<class>/<image> for the evaluation
of the result. Images are decoded as they are needed, and trained on as random-resized crops of 224 x 224
pixels. Mean and deviation are those of the given weights, or else measured on the training images.
With pretrained weights in FILE, e.g. those of torchvision, add --config.optimizer.learning_rate=0.01.
Methods: dks, ds, baseline, top_down, bottom_up.

The recipe is a common one and of no publication: 30 epochs, batch 64, a cosine from learning rate 0.1 after a
warm-up of one epoch, weight decay 1e-4. It has no figures of its own.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    return ConfigDict(
        {
            "method": method,
            "epochs": 30,
            "model": {"name": "resnet18"},
            "data": {
                "source": "folder",
                "root": "images",
                "streamed": True,
                "random_resized_crop": True,
                "preprocessing": "standard",
                "batch_size": 64,
                "drop_last": True,
                "mean": (),
                "std": (),
            },
            "optimizer": {"warmup_epochs": 1.0, "weight_decay": 1e-4},
        }
    )
