"""What tests on a cluster of Ray share."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest


def needs_ray() -> None:
    """Skip the test if Ray is not installed. Does not import it: tunewise does, with its own settings."""
    if find_spec("ray") is None:
        pytest.skip("needs tunewise[ray]")


@contextmanager
def by_value(module: str) -> Iterator[None]:
    """Inside, what this module of tests defines travels to the workers of Ray, which cannot import tests."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[module])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[module])
