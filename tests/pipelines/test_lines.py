"""Lines of a plan: the same from memory and from files, however they came."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.pipelines.parts import lines as lines_module
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.lines import Lines, id_key, order_key
from maskmill.pipelines.parts.plan import load_plan, make_plan
from maskmill.pipelines.parts.plan_lines import read_part, read_refused
from maskmill.pipelines.reading.inputs import Input
from maskmill.pipelines.reading.location import Location


def entries(names: list[str]) -> list[tuple[bytes, bytes, bytes]]:
    return [(order_key(0, name), id_key(0, name).to_bytes(8, "big"), f'{{"id":"{name}"}}'.encode()) for name in names]


def filled(names: list[str], scratch: str | None = None) -> Lines:
    lines = Lines(scratch)
    for entry in entries(names):
        lines.add(*entry)
    return lines


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text("abc", min_size=1, max_size=3), max_size=60), st.integers(0, 40), st.integers(100, 3000))
def test_files_hold_what_memory_would(names, limit, held_bytes):
    wanted = sorted(set(entries(names)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "HELD_BYTES", held_bytes)
        lines = filled(names)
        duplicates = lines.settle()
        assert len(duplicates) == len(names) - len(wanted)
        for _ in range(2):
            assert list(lines) == [line for _, _, line in wanted]
            assert [number.to_bytes(8, "big") for number, _ in lines.with_hashes()] == [own for _, own, _ in wanted]
        lines.cut(limit)
        assert list(lines) == lines.head(100) == [line for _, _, line in wanted[:limit]]
        assert len(lines) == len(wanted[:limit])
        lines.keep(lambda line: b"a" in line)
        assert list(lines) == [line for _, _, line in wanted[:limit] if b"a" in line]
        assert len(lines) == len(list(lines))


def test_files_go_with_the_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "HELD_BYTES", 500)
    lines = filled([str(i) for i in range(100)], str(tmp_path))
    lines.settle()
    assert len(os.listdir(tmp_path)) == 1
    del lines
    assert not os.listdir(tmp_path)


def test_a_plan_is_the_same_bytes_whether_or_not_its_lines_fit_memory(tmp_path, monkeypatch):
    """With duplicates, a limit and rows that are read together; the folder is left without temporary files."""

    class Source:
        categories, labels = {}, "none"

        def list_inputs(self):
            for i in range(300):
                together = "" if i % 2 else f"group-{i // 20}"
                yield Input(f"{i % 290:03d}.jpg", Location(f"{i:03d}.jpg", -1, i), together=together)

    monkeypatch.setattr(BuildConfig, "source", lambda self: Source())
    config = BuildConfig("folder", "pictures", ("grid(n=5)",), limit=250, num_shards=7)
    plans = []
    for name, held_bytes in (("memory", 1 << 20), ("files", 2000)):
        monkeypatch.setattr(lines_module, "HELD_BYTES", held_bytes)
        plans.append(make_plan(config, str(tmp_path / name), 11))
    assert plans[0] == plans[1] == load_plan(str(tmp_path / "files"))
    work = [tmp_path / name / "_work" for name in ("memory", "files")]
    assert sorted(os.listdir(work[0])) == sorted(os.listdir(work[1])) == ["plan.json", "plan.jsonl.gz", "refused.jsonl"]
    for name in os.listdir(work[0]):
        assert (work[0] / name).read_bytes() == (work[1] / name).read_bytes()
    assert {refusal.reason for refusal in read_refused(str(tmp_path / "files"))} == {"duplicate_id"}
    for shard, parts in enumerate(plans[1].parts):
        ids = [item.id for task in parts for item in read_part(str(tmp_path / "files"), task)]
        assert plans[1].ids[shard] == sum(id_key(0, identity) for identity in ids) % (1 << 64)
