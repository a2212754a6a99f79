"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real pictures and annotations, which is not part of the repository.

    Where MASKMILL_TEST_DATA is not set, tests that need it skip; where it is set (as in CI), its absence is a failure.
    """
    where = os.environ.get("MASKMILL_TEST_DATA")
    if not where:
        pytest.skip("MASKMILL_TEST_DATA is not set: it names a folder with real COCO, ImageNet and BSDS pictures")
    path = Path(where)
    if not (path / "coco" / "instances.json").is_file():
        pytest.fail(f"MASKMILL_TEST_DATA={where} holds no coco/instances.json")
    return path
