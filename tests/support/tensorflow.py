"""TensorFlow is an extra, without which data sets are read and not prepared."""

from importlib.util import find_spec

import pytest

NEEDS_TENSORFLOW = pytest.mark.skipif(
    find_spec("tensorflow") is None, reason="TensorFlow is not installed: pip install -e '.[prepare]'"
)
