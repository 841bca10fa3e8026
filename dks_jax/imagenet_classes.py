"""The 1,000 classes of ImageNet (ILSVRC 2012) in label order, and their names in words.

imagenet_classes.txt has a line for each: the WordNet id, by whose order labels count, as tensorflow-datasets
lists them (datasets/imagenet2012/labels.txt), and the name that torchvision gives it (models/_meta.py).
"""

from functools import cache
from pathlib import Path


@cache
def _words() -> dict[str, str]:
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def wordnet_ids() -> list[str]:
    """The WordNet ids in label order, e.g. "n01440764" for label 0; the class folders of ImageNet."""
    return list(_words())


def display_name(class_name: str) -> str:
    """A WordNet id of ImageNet with its name in words, e.g. "tench (n01440764)"; any other name as it is."""
    words = _words().get(class_name)
    return f"{words} ({class_name})" if words else class_name
