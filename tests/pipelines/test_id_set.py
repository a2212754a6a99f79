"""Ids that come twice are found, however many there are and wherever they are kept."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.pipelines.dataset import id_set
from maskmill.pipelines.dataset.id_set import IdSet, hash_of


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 30).map(str), st.integers(0, 2**32 - 1)), max_size=80), st.integers(1, 200))
def test_what_comes_twice_is_found_in_memory_and_on_disk(added, held):
    wanted = defaultdict(list)
    for identity, place in added:
        wanted[hash_of(identity)].append(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_set, "HELD", held)
        ids = IdSet()
        for one in added:
            ids.add(*one)
        assert ids.repeated() == {key: sorted(places) for key, places in wanted.items() if len(places) > 1}


def test_memory_is_bounded(monkeypatch):
    """A control for the spilling: nothing but what is held stays here, and files go with the set."""
    monkeypatch.setattr(id_set, "HELD", 1000)
    ids = IdSet()
    for i in range(10_500):
        ids.add(f"{i}", i % 7)
    assert len(ids._hashes) == 500
    folder = ids._folder.name
    assert ids.repeated() == {}
    del ids
    import os

    assert not os.path.exists(folder)
