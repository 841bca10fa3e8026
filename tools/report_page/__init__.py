"""The parts of tools/report.py: evaluating runs, the sections of the page, figures, the page itself."""
