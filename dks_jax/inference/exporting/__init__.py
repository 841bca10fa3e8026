"""Export: one classifier of trained weights as a file that runs without this library and has been checked."""

from dks_jax.inference.exporting.checking import Agreement, read_images
from dks_jax.inference.exporting.classifier import INPUTS, OUTPUTS, Exported
from dks_jax.inference.exporting.writing import export, require_exportable

__all__ = [
    "INPUTS",
    "OUTPUTS",
    "Agreement",
    "Exported",
    "export",
    "read_images",
    "require_exportable",
]
