"""The clocks of `benchmarks/build_stages.py`: every second is one row's, and what they are put around is there."""

import itertools
from importlib import import_module

import pytest

from benchmarks import build_stages
from benchmarks.build_stages import CHILD, PARENT, Clocks


def test_a_clock_inside_another_takes_its_time_from_it(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(build_stages.time, "thread_time", lambda: float(next(ticks)))
    clocks = Clocks()
    inner = clocks.around("inner", lambda: None)  # a tick at its start, one at its end: 1 s

    def twice() -> None:
        inner()
        inner()

    outer = clocks.around("outer", twice)
    outer()
    assert clocks.seconds == {"inner": 2.0, "outer": 3.0}
    assert sum(clocks.seconds.values()) == 5.0  # what lies between the first tick and the last
    with pytest.raises(ZeroDivisionError):
        clocks.around("fails", lambda: 1 / 0)()
    outer()
    assert clocks.seconds == {"inner": 4.0, "outer": 6.0, "fails": 1.0}


@pytest.mark.parametrize(
    "place", sorted({place for rows in (CHILD, PARENT) for places in rows.values() for place in places})
)
def test_what_is_clocked_is_there(place):
    module, _, name = place.partition(":")
    owner = import_module(f"maskmill.{module}")
    for part in name.split("."):
        owner = getattr(owner, part)
    assert callable(owner)
