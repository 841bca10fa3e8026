"""Wide ResNet 16-1 with DKS on scikit-learn's bundled handwritten digits: the example that needs no download.

    python -m dks_jax.train --config configs/digits_wrn.py

1437 training and 360 held-out images of 8x8 pixels. Methods: dks, ds, baseline, top_down, bottom_up.
"""

import ml_collections


def get_config(method: str = "dks") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.method = method
    config.seed = 0
    config.epochs = 40
    config.precision = "float32"
    config.norm_groups = 1
    config.checkpoint_every_epochs = 5

    config.data = ml_collections.ConfigDict()
    config.data.source = "digits"
    config.data.name = ""
    config.data.root = ""
    config.data.image_size = 8
    config.data.train_per_class = 0
    config.data.test_per_class = 0
    config.data.batch_size = 64
    config.data.drop_last = False
    config.data.padding = 1
    config.data.pad_mode = "zero"
    config.data.flip = False
    config.data.mean = (0.305,)
    config.data.std = (0.376,)

    config.model = ml_collections.ConfigDict()
    config.model.name = "wide_resnet"
    config.model.depth = 16
    config.model.width = 1
    config.model.dropout = 0.0

    config.synergy = ml_collections.ConfigDict()
    config.synergy.alpha = 1.0
    config.synergy.temperature = 1.0
    config.synergy.epsilon = 1e-8

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_norm_and_bias = True
    config.optimizer.drop_epochs = ()
    config.optimizer.drop_factor = 1.0
    config.optimizer.reset_momentum_at_drops = False
    return config
