"""What tools/benchmark.py measures, a module for each of its subcommands.

Such a module has `add_arguments(parser)`; `measure(options)`, which returns the figures of every round as a
dict that fits into JSON, or raises InputError where an option is wrong or the sides differ; and
`show(result)`, which returns tables and lines. Its docstring is printed below them, and is its help. What the
benchmarks take of dks_jax is in `ours`; `measuring` has its errors and tables.
"""
