"""The parts of tools/sweep.py: which runs there are, and their processes."""
