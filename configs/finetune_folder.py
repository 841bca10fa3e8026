r"""ResNet-50 from pretrained weights on a folder of your own images: the config to fine-tune with.

    python -m dks_jax.train --config configs/finetune_folder.py[:METHOD] --config.data.root=DIR \
        --config.init_weights=FILE

DIR holds train/<class>/<image> and val/<class>/<image>, FILE weights of torchvision or of a run. Another
network is --config.model.name=NAME, e.g. resnext50_32x4d, with weights of its own. Mean and deviation are
those of the weights. Methods: baseline, dks, ds, top_down, bottom_up; fresh branches beside trained weights
teach the main classifier only after a while, see docs/fine_tuning.md.

The recipe is a common one and of no publication: AdamW with a low rate that falls towards the stem, light
augmentation, EMA. It has no figures of its own.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    return ConfigDict(
        {
            "method": method,
            "epochs": 30,
            "ema_decay": 0.999,
            "model": {"name": "resnet50"},
            "loss": {"label_smoothing": 0.1},
            "data": {
                "source": "folder",
                "root": "images",
                "streamed": True,
                "random_resized_crop": True,
                "preprocessing": "standard",
                "batch_size": 32,
                "drop_last": True,
                "mean": (),
                "std": (),
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-4,
                "warmup_epochs": 1.0,
                "layer_decay": 0.75,
                "weight_decay": 0.05,
                "decay_norm_and_bias": False,
                "clip_norm": 1.0,
            },
        }
    )
