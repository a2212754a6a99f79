"""Folders of strangers: names, links and special files, each a record or a line of the ledger, through the real command."""

import json
import os
import re

import pyarrow.parquet as pq
import pytest
from archives import build, maskmill, picture
from hypothesis import given
from hypothesis import strategies as st

from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.plan import check_files, load_plan, make_plan
from maskmill.pipelines.reading.imagenet import ImageNet
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.names import member_path, spelled
from maskmill.pipelines.reading.tree import list_tree
from maskmill.schemas.errors import DamageError


def unspelled(identity: str) -> str:
    """What `spelled` was given: an inverse written from its description."""

    def back(found: re.Match) -> str:
        kind, code = found[1], int(found[2], 16)
        return chr(code if kind == "u" or code < 128 else 0xDC00 + code)

    return re.sub(r"\\(x(?=[0-9a-f]{2})|u(?=d[89a-f]))((?<=x)[0-9a-f]{2}|(?<=u)[0-9a-f]{4})", back, identity)


PIECES = st.sampled_from(
    ["\\", "x", "u", "d", "8", "f", "ff", "5c", "é", "\udcff", "\udc80", "\ud800", "\udfff", "a/b"]
)


@given(st.lists(PIECES).map("".join))
def test_spelling_is_unicode_and_reversible(name):
    identity = spelled(name)
    identity.encode("utf-8")
    assert unspelled(identity) == name
    if name.isascii() and "\\" not in name:
        assert identity == name


@pytest.mark.parametrize(
    ("name", "path"), [("./a.jpg", "a.jpg"), ("a/./b//c.jpg", "a/b/c.jpg"), ("././x", "x"), ("/a", None), (".", None)]
)
def test_names_in_archives_are_paths(name, path):
    if path is None:
        with pytest.raises(ValueError, match="unsafe path"):
            member_path(name)
    else:
        assert member_path(name) == path


def test_ledger_lines_are_the_same_in_every_run():
    line = Refusal("a", "read", "unreadable", "cannot identify <_io.BytesIO object at 0x7f6e08c3a2f0> of b\udcff")
    assert line.message == r"cannot identify <_io.BytesIO object> of b\xff"


def outcome(out) -> tuple[list[str], dict[str, str]]:
    rows = pq.read_table(str(out / "images.parquet"), use_threads=False)["id"].to_pylist()
    lines = [json.loads(line) for line in (out / "failures.jsonl").read_text("ascii").splitlines()]
    return sorted(rows), {line["id"]: f"{line['outcome']} {line['reason']}" for line in lines}


def test_a_folder_of_every_kind_of_entry(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for name in ("real/a.png", ".hidden.png", ".git/b.png", "__MACOSX/._a.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture())
    outside.mkdir()
    (outside / "c.png").write_bytes(picture())
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(picture())
    os.symlink(outside, root / "linked")
    os.symlink("real", root / "again")
    os.symlink("..", root / "real" / "loop")
    os.symlink(tmp_path, root / "above")
    os.symlink("real/a.png", root / "file.png")
    os.symlink("gone.png", root / "broken.png")
    os.symlink("circle.png", root / "circle.png")
    os.mkfifo(root / "fifo.png")
    out = tmp_path / "out"
    run = build(root, out)
    assert (run.returncode, run.stderr) == (0, "")
    assert outcome(out) == (
        [r"caf\xe9.png", "file.png", "linked/c.png", "real/a.png"],
        {
            "broken.png": "failed not_found",
            "circle.png": "failed unreadable",
            **dict.fromkeys(
                [".git", ".hidden.png", "__MACOSX/._a.png", "above", "again", "fifo.png", "real/loop"],
                "skipped not_taken",
            ),
        },
    )
    os.remove(out / "manifest.json")  # an interrupted build: the same command finishes it
    before = (out / "failures.jsonl").read_bytes()
    assert build(root, out).returncode == 0
    assert (out / "failures.jsonl").read_bytes() == before


def test_imagenet_of_linked_classes_has_every_picture(tmp_path):
    for synset in ("n00000001", "n00000002"):
        (tmp_path / "whole" / synset).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "whole" / synset / f"{synset}_{i}.JPEG").write_bytes(b"x")
    (tmp_path / "subset").mkdir()
    (tmp_path / "whole" / "n00000001").rename(tmp_path / "subset" / "n00000001")
    os.symlink(tmp_path / "whole" / "n00000002", tmp_path / "subset" / "n00000002")
    items = list(ImageNet(str(tmp_path / "subset")).list_inputs())
    assert sorted((i.synset, i.label) for i in items if isinstance(i, Input)) == 3 * [("n00000001", 0)] + 3 * [
        ("n00000002", 1)
    ]


def test_names_in_annotations_stop_no_build(tmp_path):
    (tmp_path / "images").mkdir()
    for name in (b"good.png", b"byte\xff.png"):
        with open(os.path.join(os.fsencode(tmp_path), b"images", name), "wb") as file:
            file.write(picture())
    os.mkfifo(tmp_path / "images" / "fifo.png")
    names = ["good.png", "byte\udcff.png", "high\ud800.png", "fifo.png", "gone.png"]
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"id": 1, "image_id": "\udc00"}],
        "categories": [{"id": 1, "name": "\ud83d"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    options = ("--dataset", "coco", "--annotations", tmp_path / "a.json")
    for _ in range(2):  # and again where it was finished
        run = build(tmp_path / "images", tmp_path / "out", *options, timeout=100)
        assert (run.returncode, run.stderr) == (0, "")
    assert outcome(tmp_path / "out") == (
        [r"byte\xff.png", "good.png"],
        {
            r"high\ud800.png": "failed unreadable",
            "fifo.png": "failed unreadable",
            "gone.png": "failed not_found",
            r"image_id=\udc00": "failed dangling_image_id",
        },
    )


def test_which_of_two_names_a_folder_has_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"x")
    for name in ("z", "b", "m"):
        os.symlink(tmp_path / "real", tmp_path / "root" / name)
    assert {name for name, found in list_tree(str(tmp_path / "root")) if not isinstance(found, Refusal)} == {"b/a.png"}


@pytest.mark.parametrize("name", ["plan.jsonl.gz", "plan.json", "refused.jsonl"])
def test_a_damaged_plan_is_one_sentence_with_the_way_on(name, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.png").write_bytes(picture(i))
    (tmp_path / "images" / ".hidden").write_bytes(b"")
    out = tmp_path / "out"
    make_plan(BuildConfig("folder", str(tmp_path / "images"), ("grid(n=2)",)), str(out))
    whole = (out / "_work" / name).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    says = rf"{name} cannot be read \(.*\); build with --overwrite"
    (out / "_work" / name).write_bytes(whole[:-20])
    with pytest.raises(DamageError, match=says):
        check_files(str(out), load_plan(str(out)))
    (out / "_work" / name).write_bytes(flipped)
    run = build(tmp_path / "images", out)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (5, "", 1)
    assert re.search(says, run.stderr)


def test_a_path_that_never_answers_costs_its_picture(tmp_path):
    """Stands in for a dead mount: `open` of one path sleeps, as the kernel would."""
    (tmp_path / "images").mkdir()
    for i in range(6):
        (tmp_path / "images" / f"{i}.png").write_bytes(picture(i))
    (tmp_path / "images" / "dead.png").write_bytes(picture())
    program = """
import os, time
real = os.open
def open(path, *rest, **more):
    if str(path).endswith("dead.png"):
        time.sleep(1000)
    return real(path, *rest, **more)
os.open = open
from maskmill.pipelines.commands.cli import main
sys.exit(main())
"""
    options = ("--images", tmp_path / "images", "--masks", "grid(n=2)", "--out", tmp_path / "out")
    arguments = ("build", "--dataset", "folder", *options, "--workers", "0", "--max-failure-rate", "1")
    run = maskmill(*arguments, "--image-timeout", "1", program=program, timeout=100)
    assert (run.returncode, run.stderr) == (0, "")
    rows, lines = outcome(tmp_path / "out")
    assert (len(rows), lines) == (6, {"dead.png": "failed timeout"})
