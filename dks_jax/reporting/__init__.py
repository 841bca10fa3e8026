"""Reporting: what a run logs, shows and draws."""

from dks_jax.reporting.curves import draw_curves
from dks_jax.reporting.measurements import DivergedError, EpochMeans, Stopwatch
from dks_jax.reporting.metrics_log import MetricsLog, read_records
from dks_jax.reporting.progress import Progress
from dks_jax.reporting.tables import markdown_table

__all__ = [
    "DivergedError",
    "EpochMeans",
    "MetricsLog",
    "Progress",
    "Stopwatch",
    "draw_curves",
    "markdown_table",
    "read_records",
]
