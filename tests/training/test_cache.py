"""The cache of remote shards: within its bound, the least recently used leave, nothing that is being read does."""

import collections
import hashlib
import os
import time

import pytest

from maskmill.schemas import storage
from maskmill.schemas.errors import InputError, UsageError
from maskmill.schemas.manifest import Shard
from maskmill.training import cache
from maskmill.training.cache import cache_folder, local_shard

REMOTE = "gs://mill/data"
SIZE = 1000  # bytes of a shard


@pytest.fixture
def shards(gcs, tmp_path, monkeypatch):
    """Twenty shards of 1 kB in a bucket, an empty cache that may hold eight of them, and no memory of other tests."""
    monkeypatch.setenv("MASKMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MASKMILL_CACHE_GB", str(8 * SIZE / 1e9))
    monkeypatch.setattr(cache, "_in_use", collections.deque(maxlen=2))
    monkeypatch.setattr(cache, "_used", {})
    made = []
    for index in range(20):
        data = index.to_bytes(2, "big") * (SIZE // 2)
        sha256 = hashlib.sha256(data).hexdigest()
        made.append(Shard(f"s-{index}", 1, SIZE, sha256, "00000000"))
        storage.write_bytes(f"{REMOTE}/s-{index}", data)
    gcs.requests.clear()
    return made


def held(shards):
    there = set(os.listdir(cache_folder()))
    return [index for index, shard in enumerate(shards) if shard.sha256 in there]


def test_the_least_recently_used_leave(shards):
    for index in (*range(8), 0, 8, 9):
        path = local_shard(REMOTE, shards[index])
        with open(path, "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == shards[index].sha256
        time.sleep(0.01)  # file times on some disks are coarse
    assert held(shards) == [0, 3, 4, 5, 6, 7, 8, 9]


def test_groups_in_use_stay(shards, monkeypatch):
    """Whatever their age: the last two groups of three shards each, and no more than the bound allows beside them."""
    monkeypatch.setattr(cache, "_in_use", collections.deque(maxlen=6))
    for first in range(0, 18, 3):
        group = shards[first : first + 3]
        assert all(os.path.getsize(local_shard(REMOTE, shard)) == SIZE for shard in group)
        there = held(shards)
        assert set(range(max(first - 3, 0), first + 3)) <= set(there)
        assert len(there) <= 8


def test_what_other_processes_use_now_stays_and_what_they_left_goes(shards):
    os.makedirs(cache_folder())
    old = time.time() - 2 * cache.SPARED_S
    for name, used in (("of-another-run", None), ("left", old), ("cut.1-2.incomplete", old)):
        path = os.path.join(cache_folder(), name)
        with open(path, "wb") as file:
            file.write(b"x" * 2 * SIZE)
        if used:
            os.utime(path, (used, used))
    for shard in shards[:10]:
        local_shard(REMOTE, shard)
    names = os.listdir(cache_folder())
    assert "of-another-run" in names
    assert not {"left", "cut.1-2.incomplete"} & set(names)
    assert len(held(shards)) == 6


def test_a_cache_too_small_for_what_is_read_is_named(shards, monkeypatch):
    monkeypatch.setattr(cache, "_in_use", collections.deque(maxlen=9))
    for shard in shards[:8]:
        local_shard(REMOTE, shard)
    said = r"may hold 8e-06 GB, and 8e-06 GB of it are in use when s-8 .*raise --cache-gb"
    with pytest.raises(InputError, match=said):
        local_shard(REMOTE, shards[8])


def test_without_a_bound_a_fifth_of_the_disk_stays_free(shards, monkeypatch):
    monkeypatch.delenv("MASKMILL_CACHE_GB")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5 * SIZE - held_bytes()}))

    def held_bytes():
        return SIZE * len(held(shards))

    for shard in shards[:10]:
        local_shard(REMOTE, shard)
    assert held(shards) == [6, 7, 8, 9]


@pytest.mark.parametrize("number", [0, -1, float("nan")])
def test_a_bound_must_be_positive(number):
    with pytest.raises(UsageError, match="--cache-gb must be above 0"):
        cache.set_bound(number)


def test_a_bound_that_is_no_number_is_named(shards, monkeypatch):
    monkeypatch.setenv("MASKMILL_CACHE_GB", "much")
    with pytest.raises(UsageError, match="MASKMILL_CACHE_GB must be a number of gigabytes, got 'much'"):
        local_shard(REMOTE, shards[0])
