"""Reading ahead: in order, with deadlines, and with a limit to what is left behind."""

import threading
import time

import pytest

from maskmill.pipelines.reading import read_ahead as reading
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.read_ahead import read_ahead
from maskmill.schemas.errors import ImageError


def readers() -> int:
    """Threads that read; others of the process come and go with other tests."""
    return sum(thread.name == "maskmill-read" for thread in threading.enumerate())


@pytest.fixture
def files(monkeypatch):
    """Reads that answer with their path; `dead` ones wait until the test lets them go. Returns that switch."""
    alive = threading.Event()

    def read(self, admit=None):
        if self.path.startswith("dead"):
            alive.wait(60)
        if self.path == "bad":
            raise ImageError("not_found", "read", "no file")
        if self.path == "bug":
            raise ZeroDivisionError
        return self.path.encode()

    monkeypatch.setattr(Location, "read", read)
    deadline = time.monotonic() + 10
    while readers() and time.monotonic() < deadline:  # of an earlier test, about to end
        time.sleep(0.01)
    yield alive
    alive.set()
    deadline = time.monotonic() + 10
    while reading._UNANSWERED and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reading._UNANSWERED == []  # those that answer after all are forgotten


def run(paths, seconds=0.3):
    return [data for _, data in read_ahead([Input(path, Location(path)) for path in paths], 2, seconds)]


def test_order_is_kept_and_losses_are_told(files):
    paths = [str(i) for i in range(50)]
    assert run(paths) == [path.encode() for path in paths]
    first, second = run(["bad", "x"])
    assert (first.reason, second) == ("not_found", b"x")
    with pytest.raises(ZeroDivisionError):
        run(["bug"])


def test_a_read_without_an_answer_is_given_up_and_the_rest_goes_on(files):
    before = readers()
    result = run(["a", "dead1", "b", "dead2", "dead3", "c", "d"])
    assert [r.reason if isinstance(r, Refusal) else r for r in result] == [
        b"a", "timeout", b"b", "timeout", "timeout", b"c", b"d",
    ]  # fmt: skip
    deadline = time.monotonic() + 10
    while readers() > before + 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert readers() == before + 3  # one for each that has no answer, and no other


def test_threads_do_not_pile_up_for_ever(files, monkeypatch):
    monkeypatch.setattr(reading, "MAX_UNANSWERED", 3)
    before = readers()
    for _ in range(2):  # parts
        assert {r.reason for r in run([f"dead{i}" for i in range(1000)], 0.1)} == {"timeout"}
    (line,) = run(["healthy"])
    assert line.reason == "timeout"
    assert line.message.startswith("not tried: too many earlier reads still have no answer")
    assert 3 <= len(reading._UNANSWERED) <= 4  # the limit, and the other thread that was waiting when it was reached
    assert readers() <= before + 4
    files.set()
    deadline = time.monotonic() + 10
    while reading._UNANSWERED and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run(["healthy"]) == [b"healthy"]


def test_storage_with_deadlines_of_its_own_is_waited_for(files, monkeypatch):
    monkeypatch.setattr("maskmill.schemas.storage.is_remote", lambda path: True)
    threading.Timer(1.0, files.set).start()
    assert run(["dead"]) == [b"dead"]
