"""Entry point for `pip install`; the metadata is in pyproject.toml.

The configs stand at the top of the repository, where they are found, and are installed as dks_jax/configs.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["dks_jax*"]), "dks_jax.configs"],
    package_dir={"dks_jax.configs": "configs"},
)
