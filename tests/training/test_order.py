"""The order of records as a pure function of the step, for one process and several."""

import numpy as np
import pytest

from maskmill.schemas.errors import UsageError
from maskmill.schemas.manifest import Manifest, Shard
from maskmill.training.order import Order, fold

SHARDS = [7, 0, 12, 5, 9, 1, 14, 3]  # records; 51 in all


def order(global_batch=4, **options) -> Order:
    shards = tuple(Shard(f"a-b.tfrecord-{i:05d}-of-00008", n, 100 * n, "", "") for i, n in enumerate(SHARDS))
    manifest = Manifest("a", "b", {}, "", (), shards, {}, {}, {})
    return Order(manifest, global_batch=global_batch, **({"seed": 0, "group_bytes": 1500} | options))


def epoch_of(one: Order, epoch: int) -> np.ndarray:
    first = epoch * one.steps_per_epoch
    return np.concatenate([one.records(step) for step in range(first, first + one.steps_per_epoch)])


def test_an_epoch_uses_every_record_once_but_for_less_than_a_batch():
    one = order()
    assert one.steps_per_epoch == 12
    left = []
    for epoch in range(6):
        used = epoch_of(one, epoch)
        assert len(set(used)) == len(used) == 48
        left.append(frozenset(range(51)) - set(used))
    assert len(set(left)) > 1  # the remainder is another one each time


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_an_epoch_without_overlap(processes):
    parts = [order(process_index=p, process_count=processes) for p in range(processes)]
    for epoch in range(4):
        used = [epoch_of(part, epoch) for part in parts]
        assert {len(u) for u in used} == {48 // processes}
        assert len(set(np.concatenate(used))) == 48


def test_a_process_reads_little_more_than_its_share():
    parts = [order(process_index=p, process_count=2) for p in range(2)]
    read = [set(), set()]
    for part, shards in zip(parts, read, strict=True):
        groups = part.groups(0)
        count = 0
        while count < 24:
            group = next(groups)
            shards.update(group.shards)
            count += len(group.records)
    assert len(read[0] & read[1]) <= 1  # the shard that the border runs through


def test_any_step_is_found_directly():
    one = order()
    stream = one.groups(0)
    walked = np.zeros(0, np.int64)
    while len(walked) < 4 * 40:
        walked = np.concatenate([walked, next(stream).records])
    for step in (0, 1, 5, 11, 12, 13, 30, 39):
        np.testing.assert_array_equal(one.records(step), walked[4 * step : 4 * step + 4])


def test_shards_and_records_are_shuffled_anew_each_epoch_and_seed():
    sequences = [tuple(epoch_of(order(seed=seed), epoch)) for seed in range(2) for epoch in range(2)]
    assert len(set(sequences)) == 4
    firsts = {next(order(seed=seed).groups(0)).shards for seed in range(20)}
    assert len(firsts) > 10
    # Large groups mix: neighbours in training are not neighbours on disk.
    steps = np.abs(np.diff(epoch_of(order(group_bytes=10**9), 0)))
    assert np.median(steps) > 8


def test_groups_keep_to_their_bytes():
    stream = order().groups(0)
    for _ in range(20):
        group = next(stream)
        assert sum(100 * SHARDS[s] for s in group.shards) <= 1500 or len(group.shards) == 1


def test_places_point_at_records():
    one = order()
    stream = one.groups(5)
    for _ in range(12):
        group = next(stream)
        bases = np.cumsum([0, *SHARDS])
        listed = np.concatenate([np.arange(bases[s], bases[s + 1]) for s in group.shards])
        np.testing.assert_array_equal(listed[group.places], group.records)
        for record in group.records:
            shard, index = one.place(record)
            assert bases[shard] + index == record
            assert index < SHARDS[shard]


def test_keys_depend_on_seed_epoch_and_record_only():
    def keys(one, epoch):
        groups, found = one.groups(epoch * one.steps_per_epoch), {}
        while len(found) < 24:
            group = next(groups)
            found |= dict(zip(group.records.tolist(), group.keys.tolist(), strict=True))
        return found

    base = keys(order(), 1)
    other = keys(order(process_index=1, process_count=2, group_bytes=300, global_batch=2), 1)
    shared = set(base) & set(other)
    assert shared
    assert all(base[r] == other[r] for r in shared)
    again = keys(order(), 2)
    assert all(base[r] != again[r] for r in set(base) & set(again))
    assert len(set(base.values())) == len(base)


def test_hashes_are_pinned():
    # A change of these numbers changes the order of every run that is resumed.
    assert fold(1, 2, np.array([3, 4])).tolist() == [5595694876161727292, 8955176634522201091]


def test_batches_that_cannot_be_made_are_refused():
    with pytest.raises(UsageError, match="batch_size=52 exceeds the data set's 51 records"):
        order(global_batch=52)
    with pytest.raises(UsageError, match="batch_size=6 does not divide by 4 processes"):
        order(global_batch=6, process_count=4)
