"""Parts joined to shards, also by two attempts at once."""

import contextlib
import dataclasses
import gzip
import os
from pathlib import Path

import pytest
from drawn import content, write_coco

from maskmill.pipelines.driver import graph
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.driver.finish import finish_build
from maskmill.pipelines.driver.progress import Tally
from maskmill.pipelines.folding.fold import Fold
from maskmill.pipelines.parts import assemble
from maskmill.pipelines.parts.assemble import assemble_shard, load_parts, load_shard, load_shards, shard_sidecar_path
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.isolation import InProcess
from maskmill.pipelines.parts.part import build_part, load_sidecar, part_path, sidecar_path
from maskmill.pipelines.parts.plan import Plan, make_plan
from maskmill.pipelines.parts.spent import read_spent
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> BuildConfig:
    images, _ = write_coco(tmp_path_factory.mktemp("pictures"), 9)
    return BuildConfig("folder", images, ("grid(n=2)",), num_shards=1)


@pytest.fixture
def built(config, tmp_path) -> tuple[str, Plan]:
    """A folder with three parts committed and nothing joined."""
    out = str(tmp_path / "out")
    plan = make_plan(config, out, 3)
    for task in plan.tasks:
        build_part(task, out, InProcess(plan.config.settings()))
    return out, plan


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_attempt_that_is_overtaken_takes_what_the_other_committed(at, built, config, tmp_path, monkeypatch):
    """The other attempt runs from start to end just before this one opens its part number `at`."""
    out, plan = built
    opened: list[str] = []
    real = storage.open_read

    @contextlib.contextmanager
    def overtaken(path):
        opened.append(path)
        if len(opened) == at + 1:
            monkeypatch.setattr(assemble.storage, "open_read", real)
            assert assemble_shard(out, plan, 0).records == 9
        with real(path) as stream:
            yield stream

    monkeypatch.setattr(assemble.storage, "open_read", overtaken)
    assert assemble_shard(out, plan, 0) == load_shard(out, plan, 0)
    assert len(opened) == at + 1
    assert [part.name for part in load_parts(out, plan, 0)] == [task.name for task in plan.tasks]
    assert not os.listdir(Path(out, "_work", "parts"))
    assert assemble_shard(out, plan, 0).records == 9
    assert finish_build(out, plan).num_records == 9
    build(config, str(tmp_path / "alone"), RunOptions(workers=0), quiet=True)
    assert content(Path(out)) == content(tmp_path / "alone")


@pytest.mark.parametrize("how", ["removed", "changed"])
def test_a_part_that_is_really_damaged_is_named_and_uncommitted(how, built):
    out, plan = built
    victim = Path(part_path(out, plan.tasks[1]))
    if how == "removed":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    with pytest.raises(DamageError, match=rf"^part {plan.tasks[1].name} is not what was written; the same build"):
        assemble_shard(out, plan, 0)
    left = [Path(sidecar_path(out, task.name)).exists() for task in plan.tasks]
    assert left == [True, False, True]
    assert load_shard(out, plan, 0) is None
    assert not list(Path(out).glob("*.tfrecord*"))


@pytest.mark.parametrize("rubbish", [b"[" * 100_000, b'"text"', b"5", b"null", b"[1]", b'{"a": 1}'])
def test_accounts_of_rubbish_are_none(rubbish, built):
    """So that what they are of is built again, and no command stumbles over them."""
    out, plan = built
    task = plan.tasks[0]
    storage.write_bytes(sidecar_path(out, task.name), rubbish)
    storage.write_bytes(shard_sidecar_path(out, plan, 0), rubbish)
    storage.write_bytes(storage.join(out, "_work", "spent", "x.json"), rubbish[:4096])
    assert load_sidecar(out, task) is None
    assert load_shard(out, plan, 0) is None
    assert read_spent(out) is None
    Tally(out, plan).refresh()
    with pytest.raises(ValueError, match="no fold"):
        Fold.from_bytes(gzip.compress(rubbish))


def test_a_shard_that_a_forgotten_job_wrote_over_is_not_whole(built):
    """The same size, another plan's bytes, after this plan's sidecar; and the same bytes again, by another attempt."""
    out, plan = built
    shard = Path(out) / assemble_shard(out, plan, 0).name
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert load_shard(out, plan, 0) is None
    assert load_shards(out, plan) == {}
    shard.write_bytes(data)
    assert load_shard(out, plan, 0) == load_shards(out, plan)[0]


def test_what_a_forgotten_job_writes_lies_beside_what_is_ours(built, config):
    """The folder is built anew under another seed while a worker of the first plan is still writing."""
    out, old = built
    new = make_plan(dataclasses.replace(config, seed=1), out, 3)
    for task in new.tasks:
        build_part(task, out, InProcess(new.config.settings()))
    for task in old.tasks:
        storage.write_bytes(part_path(out, task), b"late")
        storage.write_bytes(sidecar_path(out, task.name), b"{}")
    storage.write_bytes(shard_sidecar_path(out, old, 0), b"{}")
    assert assemble_shard(out, new, 0).records == 9
    assert finish_build(out, new).plan_digest == new.digest
    assert load_shard(out, old, 0) is None


def test_what_killed_and_late_attempts_leave_of_parts_is_swept_away(built, config, monkeypatch):
    """A kill between the commit of a shard and the removal of its parts, and another plan's part beside them."""
    out, plan = built
    parts = Path(out, "_work", "parts")
    with monkeypatch.context() as killed:
        killed.setattr(assemble, "_remove_parts", lambda folder, plan, index: None)
        assemble_shard(out, plan, 0)
    (parts / "00000-00000-ffffffff.json").write_bytes(b"{}")
    assert len(os.listdir(parts)) == 2 * 3 + 1
    build(config, out, RunOptions(workers=0), quiet=True)
    assert os.listdir(parts) == ["00000-00000-ffffffff.json"]


def test_a_joined_part_is_not_built_again_where_an_engine_starts_anew(built):
    out, plan = built
    assemble_shard(out, plan, 0)
    part = graph.BuildPart(out, plan.digest, 60.0, False)
    part.setup()
    part.builder = None  # whoever builds fails
    assert [pair for task in plan.tasks for pair in part.process(task)] == [(0, 0), (0, 1), (0, 2)]
    assert not list(Path(out, "_work", "parts").glob("*.tfrecord"))
    packed = next(Path(out, "_work", "shards").glob("*.parts.gz"))
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AttributeError):
        list(part.process(plan.tasks[1]))
    packed.write_bytes(whole)
    next(Path(out).glob("*.tfrecord-*")).unlink()
    with pytest.raises(AttributeError):
        list(part.process(plan.tasks[0]))
    graph.LOCAL_ERRORS.clear()
