"""Fixtures of the build's tests: a drawn data set, and a generator that makes trouble on request."""

import os
from pathlib import Path

import pytest
from drawn import write_coco

from maskmill.masks.registry import GENERATORS
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.isolation import ChildProcess

SUPPORT = Path(__file__).parent.parent / "support"


@pytest.fixture(scope="session")
def coco(tmp_path_factory) -> BuildConfig:
    """Configuration of a build of 40 drawn pictures with annotations."""
    images, annotations = write_coco(tmp_path_factory.mktemp("coco"), 40)
    return BuildConfig("coco", images, ("grid(n=(2, 5))", "gt()"), annotations=annotations)


@pytest.fixture
def trouble(monkeypatch, tmp_path) -> Path:
    """Registers the generator `trouble` (see trouble.py) here and in worker processes; returns its memory's folder."""
    monkeypatch.setitem(GENERATORS, "trouble", "trouble:Trouble")
    monkeypatch.setattr(ChildProcess, "program", "import trouble; trouble.serve()")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")]))
    memory = tmp_path / "trouble-memory"
    memory.mkdir()
    monkeypatch.setenv("TROUBLE_MEMORY", str(memory))
    return memory
