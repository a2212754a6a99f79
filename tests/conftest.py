"""What every room's tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real pictures named by MASKMILL_TEST_DATA."""
    folder = os.environ.get("MASKMILL_TEST_DATA")
    if not folder:
        pytest.skip("MASKMILL_TEST_DATA is not set: no real pictures to test on")
    return Path(folder)
