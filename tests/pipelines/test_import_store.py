"""What stands between a results file of any length and a worker: the guarded stream, the spool, the store."""

import hashlib
import json
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.pipelines.foreign import json_stream, store
from maskmill.pipelines.foreign.json_stream import Items
from maskmill.pipelines.foreign.store import Spool, Store, write_store
from maskmill.schemas.errors import DamageError, InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(alphabet='a"\\[]{}é,:', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='a"\\[{', max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=60)
@given(content=st.lists(JSON, max_size=5), chunk=st.integers(1, 40), ascii_only=st.booleans())
def test_a_stream_gives_what_the_whole_file_gives(tmp_path_factory, content, chunk, ascii_only):
    path = tmp_path_factory.getbasetemp() / "stream.json"
    path.write_text(json.dumps({"x": [["]"]], "items": content}, ensure_ascii=ascii_only), encoding="utf-8")
    items = Items(str(path), "items.item")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert list(items) == content
    assert items.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == json_stream.digest(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["' + "a" * 3000 + '"]', "a text in it has more than 2000 bytes"),
        ('{"a": [{"b": [' + "1," * 3000 + "1]}]}", "an item of it has more than 4000 bytes"),
        (
            '["\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", [[[[',
            "premature EOF",
        ),  # brackets in a text are no nesting
        ("[" * 40, "nested more than 32 deep"),
    ],
)
def test_what_would_fill_the_memory_is_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(json_stream, "_CHUNK", 100)
    monkeypatch.setattr(json_stream, "MAX_TEXT_BYTES", 2000)
    monkeypatch.setattr(json_stream, "MAX_ITEM_BYTES", 4000)
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        list(Items(str(path), "item"))


def test_entries_come_back_by_source_in_the_order_of_arrival():
    entries = [(f"s{k % 7}", str(k).encode()) for k in range(1000)]
    random.Random(1).shuffle(entries)
    with Spool() as spool:
        spool.add(iter(entries[:400]))
        spool.add(entries[400:])
        found = {source: list(group) for source, group in spool.groups()}
    assert found == {source: [e for s, e in entries if s == source] for source in {s for s, _ in entries}}


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 3000])
def test_a_store_gives_every_picture_its_own_and_others_nothing(tmp_path, count):
    path = str(tmp_path / "store")
    write_store(path, ((f"p/{k}.jpg", [b"%d" % k, b";" * (k % 5)]) for k in range(count)), "r.json")
    kept = Store(path)
    assert all(kept.get(f"p/{k}.jpg") == b"%d" % k + b";" * (k % 5) for k in range(count))
    assert all(kept.get(f"q/{k}.jpg") is None for k in range(100))


def test_damage_and_absence_are_said(tmp_path):
    path = tmp_path / "store"
    with pytest.raises(DamageError, match=r"store\.index is gone; build with --overwrite"):
        Store(str(path))
    write_store(str(path), [("a", [b"x" * 100])], "r.json")
    data = (tmp_path / "store.data").read_bytes()
    for damaged in (data[:-3], b"\0" * len(data)):
        (tmp_path / "store.data").write_bytes(damaged)
        with pytest.raises(DamageError, match=r"store\.data is damaged"):
            Store(str(path)).get("a")
    (tmp_path / "store.index").write_bytes(b"x" * 100)
    with pytest.raises(DamageError, match=r"store\.index is damaged"):
        Store(str(path))


def test_a_picture_with_too_much_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MAX_PICTURE_BYTES", 50)
    with pytest.raises(InputError, match=r"r\.json: the masks of a are longer than 50 bytes"):
        write_store(str(tmp_path / "store"), [("a", [b"x" * 30, b"y" * 30])], "r.json")
    assert list(tmp_path.iterdir()) == []


PEAK = """
import re, sys
def peak():  # of this program; ru_maxrss begins with that of the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) >> 10
"""
PLANNING = """
import maskmill.pipelines.foreign.results  # and with it all that planning imports
from maskmill.pipelines.foreign import store
from maskmill.pipelines.parts.generators import parse_spec
store._CACHE_KB = 1 << 10  # SQLite's share of the memory, which is bounded whatever the file
keys = [f"d/p{k}.jpg" for k in range(2000)]
before = peak()
done = parse_spec(f"imported(path={sys.argv[1]!r})").prepare([(key, "") for key in keys], set(keys), sys.argv[2])
assert not done.refused
print(peak() - before)
"""
HOLDING = """
import json
before = peak()
content = json.loads(open(sys.argv[1], "rb").read())
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's own figure of memory")
def test_a_long_file_is_never_held(tmp_path):
    """40 MB of results, no two neighbours of one picture: planning takes a tenth of what holding them takes."""
    path = tmp_path / "r.json"
    order = [k % 2000 for k in range(40_000)]
    random.Random(1).shuffle(order)
    with path.open("w") as file:
        for number, picture in enumerate(order):
            counts = "".join(chr(48 + (number * 7 + k * k) % 32) for k in range(20)) * 45
            entry = {"image_id": 1, "file_name": f"p{picture}.jpg", "segmentation": {"size": [9, 9], "counts": counts}}
            file.write(f"{',' if number else '['}\n{json.dumps(entry)}")
        file.write("]")
    assert path.stat().st_size > 38e6
    planning, holding = (
        int(subprocess.check_output([sys.executable, "-c", PEAK + code, path, tmp_path / "out"], text=True))
        for code in (PLANNING, HOLDING)
    )
    assert planning < holding / 4
