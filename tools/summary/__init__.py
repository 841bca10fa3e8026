"""The parts of tools/summarize.py: reading runs, grouping them into rows, comparing, tables, curves."""
