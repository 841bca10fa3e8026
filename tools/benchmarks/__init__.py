"""What tools/benchmark.py measures: a module for each of its subcommands, and what they share.

A module of a subcommand has HELP, one line about it; `add_arguments(parser)`; `measure(options)`, which
returns the figures of every round as a dict that fits into JSON; and `show(result)`, a table in Markdown.
"""

from benchmarks import stand_ins

# Before anything else here imports dks_jax.
stand_ins.install()
