"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest
import shapes
from hypothesis import settings

shapes.install()  # before anything of maskmill is loaded

# No deadline: whichever test comes first pays for the compilation of a kernel, and each file must be green alone.
settings.register_profile("maskmill", deadline=None)
settings.register_profile("thorough", max_examples=20_000, deadline=None)
settings.load_profile("maskmill")


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


@pytest.fixture
def gcs(monkeypatch):
    """An object store on loopback with the bucket `mill`, where gs:// paths lead while the test runs (see gcs.Gcs)."""
    pytest.importorskip("gcp_storage_emulator", reason="the dev extra is not installed: gs:// tests need an emulator")
    from gcs import Gcs

    from maskmill.schemas import gcs_files

    server = Gcs()
    server.create_bucket("mill")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    gcs_files._client_of.cache_clear()
    gcs_files._REACHED.clear()
    yield server
    server.close()
    gcs_files._client_of.cache_clear()
