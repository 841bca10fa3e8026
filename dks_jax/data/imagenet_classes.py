"""The 1,000 classes of ImageNet (ILSVRC 2012) in label order, with their names in words.

imagenet_classes.txt has one line per class in label order, which is the order of the WordNet ids: the id,
from tensorflow-datasets (datasets/imagenet2012/labels.txt), and the name, from torchvision (models/_meta.py).
"""

from functools import cache
from pathlib import Path


@cache
def _words() -> dict[str, str]:
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def wordnet_ids() -> list[str]:
    """The WordNet ids in label order, e.g. "n01440764" for label 0, which also name ImageNet's folders."""
    return list(_words())


def display_name(class_name: str) -> str:
    """A WordNet id with its name in words, e.g. "tench (n01440764)"; any other name is returned unchanged."""
    words = _words().get(class_name)
    return f"{words} ({class_name})" if words else class_name
