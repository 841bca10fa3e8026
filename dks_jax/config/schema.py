"""The schema of a config: a row for each field, with its type, default, meaning and bounds.

A config file sets the fields that define its experiment, and all others take their defaults. A new version
can therefore add fields without breaking config files or the workdirs of older runs.
"""

from dks_jax.config.field import Field
from dks_jax.config.methods import BY_METHOD, METHODS, PUBLISHED

COUNT_LIMIT = 10**9
"""The largest number of epochs, images and the like that a field takes."""
AUTO = "auto"
"""The value of a field that a run resolves at its start."""

FIELDS: dict[str, Field] = {
    "method": Field(
        str, "dks", "training method, which gives model.branches and synergy.teaches", words=tuple(METHODS)
    ),
    "seed": Field(int, 0, "seed of initial weights, order of images, augmentation and dropout", 0, 2**32 - 1),
    "epochs": Field(int, 100, "passes over the training images", 1, COUNT_LIMIT),
    "precision": Field(
        str,
        "float32",
        "type in which the network computes; parameters and loss are float32",
        words=("float32", "bfloat16"),
    ),
    "deterministic": Field(bool, False, "whether a GPU must compute bitwise reproducible results; slower"),
    "remat": Field(bool, False, "whether the backward pass recomputes activations; slower, less memory"),
    "norm_groups": Field(
        int, 1, "number of slices of a batch that batch normalisation treats separately", 1, COUNT_LIMIT
    ),
    "norm_statistics": Field(
        str,
        AUTO,
        "passes over a batch for the statistics of batch normalisation; auto: two on a CPU, else one about "
        "the running mean",
        words=(AUTO, "one_pass", "two_pass"),
        before="two_pass",
    ),
    "ema_decay": Field(
        float,
        0.0,
        "decay of the moving average of weights and statistics that is evaluated and saved; 0: none",
        0,
        below=1,
    ),
    "checkpoint_every_epochs": Field(int, 1, "epochs between checkpoints", 1, COUNT_LIMIT),
    "checkpoint_every_minutes": Field(
        float, 10.0, "minutes after which a checkpoint is due within an epoch; 0: never", 0
    ),
    "checkpoint_keep": Field(
        int, 2, "number of checkpoints that are kept; a finished run keeps one", 1, COUNT_LIMIT
    ),
    "init_weights": Field(str, "", "folder of weights, run or PyTorch checkpoint to start from; empty: none"),
    "init_optimizer": Field(
        bool, False, "whether to continue with the momentum and the epoch of init_weights"
    ),
    "data.source": Field(str, "folder", "source of the images: digits, cifar, folder or tfds"),
    "data.name": Field(
        str, "", "name of the data set: cifar10 or cifar100 for the source cifar, any for tfds"
    ),
    "data.root": Field(str, "", "folder of the data for the sources cifar and folder; data_dir for tfds"),
    "data.train_split": Field(
        str, "", "training split, a folder in data.root or a split of tfds; empty: train or training"
    ),
    "data.held_out": Field(
        str,
        "",
        "held-out split; empty: in training validation images where there are any, else test images; "
        "in evaluation the other way round",
    ),
    "data.streamed": Field(
        bool,
        False,
        "whether threads decode and augment images on demand, a few batches ahead of the device",
    ),
    "data.image_size": Field(
        int, 224, "side of the images in pixels; those of a folder or tfds are resized to it", 1, 10**5
    ),
    "data.channels": Field(
        int, 0, "channels of the images, 1 or 3; 0: those of the weights or of the source, else 3", 0, 3
    ),
    "data.preprocessing": Field(
        str, "squash", "method of resizing images of a folder or tfds", words=("squash", "dks", "standard")
    ),
    "data.crop_ratio": Field(
        float,
        0.875,
        "share of the resized short side that the central crop takes; dks and standard only",
        0.1,
        1,
    ),
    "data.interpolation": Field(
        str,
        "bilinear",
        "filter of resizing by standard and of random resized crops",
        words=("bilinear", "bicubic"),
    ),
    "data.train_per_class": Field(int, 0, "number of training images per class; 0: all", 0, COUNT_LIMIT),
    "data.test_per_class": Field(int, 0, "number of held-out images per class; 0: all", 0, COUNT_LIMIT),
    "data.batch_size": Field(int, 128, "images per step, over all devices", 1, COUNT_LIMIT),
    "data.drop_last": Field(bool, False, "whether to leave out the last, partial batch of an epoch"),
    "data.padding": Field(int, 0, "pixels added on every side before the random crop", 0, 10**5),
    "data.pad_mode": Field(
        str, "reflect", "content of the pixels that data.padding adds", words=("reflect", "zero")
    ),
    "data.flip": Field(bool, True, "whether to mirror training images with probability 1/2"),
    "data.random_resized_crop": Field(
        bool, False, "whether to train on random crops, resized; streamed images only"
    ),
    "data.color_jitter": Field(
        float,
        0.0,
        "largest relative change of brightness, contrast and saturation; streamed images only",
        0,
        1,
    ),
    "data.train_size": Field(
        int,
        0,
        "side of the random resized crops in pixels; 0: data.image_size, to which the others are resized",
        0,
        10**5,
    ),
    "data.policy": Field(
        str,
        "none",
        "augmentation policy for training images; streamed images only",
        words=("none", "autoaugment_cifar10", "autoaugment_imagenet", "randaugment", "trivialaugment"),
    ),
    "data.randaugment": Field(
        int,
        (2, 9),
        "number of operations of the policy randaugment, and their magnitude",
        0,
        30,
        several=True,
    ),
    "data.random_erasing": Field(
        float, 0.0, "probability that a rectangle of a training image is erased; 0: off", 0, 1
    ),
    "data.cutout": Field(
        int, 0, "side in pixels of a square that is cut out of training images; 0: off", 0, 10**5
    ),
    "data.label_noise": Field(
        float, 0.0, "share of the training images that are given another class, the same for every seed", 0, 1
    ),
    "data.label_noise_map": Field(
        tuple,
        (),
        "pairs of classes (true, given) for data.label_noise; (): every other class is as likely",
        several=True,
    ),
    "data.label_noise_seed": Field(int, 0, "seed of data.label_noise, apart from seed", 0, 2**32 - 1),
    "data.labels_file": Field(
        str, "", "CSV file, path,label for each training image with another label than its own; empty: none"
    ),
    "data.mean": Field(
        float,
        (0.485, 0.456, 0.406),
        "per-channel means of pixels in the range 0 to 1; (): those of the weights; without weights measured",
        several=True,
    ),
    "data.std": Field(
        float,
        (0.229, 0.224, 0.225),
        "per-channel standard deviations of pixels in the range 0 to 1; (): as for data.mean",
        above=0,
        several=True,
    ),
    "model.name": Field(
        str, "wide_resnet", "name of the network; the other fields of model are its arguments"
    ),
    "model.branches": Field(
        tuple,
        BY_METHOD,
        "tuple (after, blocks, widths) for each branch; published: branches of the literature",
        words=(BY_METHOD, PUBLISHED),
    ),
    "loss.label_smoothing": Field(
        float, 0.0, "share of each training target that is spread evenly over the classes", 0, below=1
    ),
    "loss.binary": Field(
        bool,
        False,
        "whether training takes a binary cross-entropy for every class, averaged over them",
    ),
    "loss.binary_threshold": Field(
        float,
        0.0,
        "with loss.binary, target above which it counts as 1; 0: targets as they are",
        0,
        1,
    ),
    "loss.classifier_weights": Field(
        float,
        (),
        "weight of each classifier's cross-entropy in depth order, the main one last; (): 1",
        0,
        several=True,
    ),
    "mixing.mixup": Field(
        float,
        0.0,
        "parameter alpha of mixup, whose shares have the distribution Beta(alpha, alpha); 0: none",
        0,
    ),
    "mixing.cutmix": Field(float, 0.0, "the same for CutMix; 0: none", 0),
    "mixing.probability": Field(float, 1.0, "probability that a batch is mixed", 0, 1),
    "mixing.switch_probability": Field(
        float, 0.5, "probability of CutMix in a mixed batch where mixup is on too", 0, 1
    ),
    "synergy.detach": Field(
        bool, False, "whether branches leave the backbone as it is: no gradient reaches it from them"
    ),
    "synergy.alpha_warmup": Field(
        float, 0.0, "epochs over which synergy.alpha rises linearly from 0", 0, COUNT_LIMIT
    ),
    "synergy.random_pairs": Field(
        bool, False, "whether each step leaves out random pairs of classifiers, as the code of DHM can"
    ),
    "synergy.teaches": Field(
        tuple,
        BY_METHOD,
        "teaching matrix: a name, or rows of weights [teacher, student] in depth order",
        words=(BY_METHOD, "all_pairs", "no_pairs", "top_down", "bottom_up"),
    ),
    "synergy.teachers": Field(
        str,
        (),
        "paths of trained weights that teach in training, as further rows of synergy.teaches",
        several=True,
    ),
    "synergy.alpha": Field(float, 1.0, "weight of the KL divergences between classifiers", 0),
    "synergy.temperature": Field(float, 1.0, "softmax temperature of the KL divergences", above=0),
    "synergy.epsilon": Field(
        float, 1e-8, "smoothing of the probabilities; 1e-8: as in the released code, 0: exact KL", 0
    ),
    "synergy.branch_warmup": Field(
        float,
        AUTO,
        "epochs (hold, rise) until branches teach deeper classifiers in full; auto: by init_weights",
        0,
        10**6,
        words=(AUTO,),
        several=True,
        before=(0, 0),
    ),
    "optimizer.name": Field(
        str, "sgd", "rule by which gradients change the weights", words=("sgd", "adamw", "lamb")
    ),
    "optimizer.schedule": Field(
        str,
        "cosine",
        "schedule of the learning rate over the epochs",
        words=("step", "cosine", "one_cycle"),
    ),
    "optimizer.learning_rate": Field(float, 0.1, "largest learning rate: after warm-up, before any decay", 0),
    "optimizer.warmup_epochs": Field(float, 0.0, "epochs of linear warm-up of the learning rate", 0),
    "optimizer.drop_epochs": Field(
        int,
        (),
        "rising numbers, from 1, of epochs at whose start the learning rate drops; step only",
        1,
        10**6,
        several=True,
    ),
    "optimizer.drop_factor": Field(
        float, 0.1, "factor of the learning rate at each of drop_epochs; step only", 0, 1
    ),
    "optimizer.reset_momentum_at_drops": Field(
        bool, False, "whether to reset the momentum at each of drop_epochs"
    ),
    "optimizer.momentum": Field(float, 0.9, "momentum of SGD; 0: none", 0, below=1),
    "optimizer.nesterov": Field(bool, False, "whether SGD steps by Nesterov's modification of the momentum"),
    "optimizer.betas": Field(
        float,
        (0.9, 0.999),
        "decays of the means of the gradient and of its square; adamw and lamb only",
        0,
        below=1,
        several=True,
    ),
    "optimizer.eps": Field(
        float,
        AUTO,
        "number added to the root of the mean square; auto: 1e-8 for adamw, 1e-6 for lamb",
        above=0,
        words=(AUTO,),
    ),
    "optimizer.weight_decay": Field(
        float,
        5e-4,
        "coefficient of the weight decay; of sgd added to the gradient, else to the update",
        0,
    ),
    "optimizer.layer_decay": Field(
        float,
        1.0,
        "factor of the learning rate from each stage to the one before it, the heads at 1; 1: none",
        above=0,
        maximum=1,
    ),
    "optimizer.clip_norm": Field(
        float, 0.0, "largest norm of the gradient over all parameters; 0: no clipping", 0
    ),
    "optimizer.decay_norm_and_bias": Field(
        bool,
        True,
        "whether the weight decay includes normalisation, biases, class token and positions",
    ),
}
"""The rows of all fields but the arguments of networks, by dotted name; docs/configuration.md lists them."""
