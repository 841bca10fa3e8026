"""Entry point for `pip install`; the metadata is in pyproject.toml."""

from setuptools import setup

setup()
