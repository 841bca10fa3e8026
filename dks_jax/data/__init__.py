"""Image data: sources, preprocessing, augmentation, and feeds of batches for the compiled step."""

from dks_jax.data.augmentation import normalise
from dks_jax.data.feeds import Batch, Chunk, Epochs, Feed, held_out_feed, make_feeds
from dks_jax.data.images import HeldOut, ImageData, Split, StoredSplit
from dks_jax.data.preparation import Preparation
from dks_jax.data.preprocessing import View
from dks_jax.data.sources import SOURCES, check, load, load_held_out, resolve, source
from dks_jax.data.sources.folder import decode
from dks_jax.data.statistics import measure

__all__ = [
    "SOURCES",
    "Batch",
    "Chunk",
    "Epochs",
    "Feed",
    "HeldOut",
    "ImageData",
    "Preparation",
    "Split",
    "StoredSplit",
    "View",
    "check",
    "decode",
    "held_out_feed",
    "load",
    "load_held_out",
    "make_feeds",
    "measure",
    "normalise",
    "resolve",
    "source",
]
