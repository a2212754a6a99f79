"""A published folder of an enemy: refused by every command that opens what is wrong, in one sentence, within seconds."""

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import time
from pathlib import Path

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import write_coco
from enemy import png_bomb

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.dataset.checksums import renew_checksums
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions, read_config_file
from maskmill.schemas.errors import InputError
from maskmill.schemas.example import encode_example
from maskmill.schemas.manifest import digest, load_manifest
from maskmill.schemas.reader import Dataset
from maskmill.schemas.tfrecord import frame

SECONDS = 20  # of one command on a busy machine; what is guarded against takes minutes, or never ends


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("enemy")
    images, annotations = write_coco(root / "data", 6)
    config = BuildConfig("coco", images, ("grid(n=2)", "gt()"), annotations=annotations, num_shards=1)
    build(config, str(root / "out"), RunOptions(workers=0), quiet=True)
    shutil.rmtree(root / "out" / "_work")  # as it is published
    return root / "out"


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def shard(folder: Path) -> Path:
    return next(folder.glob("*.tfrecord-*"))


def with_picture(folder: Path, **changes) -> None:
    """Changes the picture of every record; every digest fits."""
    examples = [dataclasses.replace(example, **changes) for example in Dataset.open(str(folder))]
    records = [encode_example(example) for example in examples]
    data = b"".join(map(frame, records))
    shard(folder).write_bytes(data)
    manifest = load_manifest(str(folder))
    one = dataclasses.replace(
        manifest.shards[0],
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        crc32c=google_crc32c.Checksum(data).hexdigest().decode(),
    )
    (folder / "manifest.json").write_bytes(dataclasses.replace(manifest, shards=(one,)).to_json())
    edit_table(folder, "record_bytes", lambda values: [len(record) for record in records])
    renew_checksums(str(folder), (one.name, "manifest.json"))


def edit_table(folder: Path, name: str, change) -> None:
    table = pq.ParquetFile(folder / "images.parquet").read()
    index = table.schema.get_field_index(name)
    column = pa.array(change(table.column(name).to_pylist()), table.schema.field(name).type)
    pq.write_table(table.set_column(index, name, column), folder / "images.parquet")
    renew_checksums(str(folder), ("images.parquet",))


def many_rows(folder: Path) -> None:
    """A billion would be a file of as many bytes."""
    table = pq.ParquetFile(folder / "images.parquet").read()
    pq.write_table(pa.concat_tables([table] * 2000), folder / "images.parquet")
    renew_checksums(str(folder), ("images.parquet",))


def edit_manifest(folder: Path, change) -> None:
    fields = json.loads((folder / "manifest.json").read_bytes())
    del fields["manifest_digest"]
    change(fields)
    (folder / "manifest.json").write_text(json.dumps({**fields, "manifest_digest": digest(fields)}))


def replace(path: Path, make) -> None:
    path.unlink()
    make(path)


def endless(path: Path) -> None:
    os.symlink("/dev/zero", path)


COMMANDS = {
    "validate": ["validate", "FOLDER"],
    "deep": ["validate", "FOLDER", "--deep"],
    "view": ["view", "FOLDER", "1", "--out", "VIEW"],
    "html": ["view", "FOLDER", "1", "--out", "VIEW", "--html"],
    "report": ["report", "FOLDER", "--out", "REPORT"],
    "compare": ["compare", "FOLDER", "SOUND"],
    "status": ["status", "FOLDER"],
}
ALL = set(COMMANDS)
RECORDS = {"validate", "deep", "view", "html", "report"}  # compare and status open no record

# What is wrong, who must refuse it, and what is said.
ATTACKS = {
    "a picture of 900 megapixels": (
        lambda f: with_picture(f, encoded=png_bomb(), format="PNG"),
        RECORDS,
        "30000 x 30000",
    ),
    "and a record that says so": (
        lambda f: with_picture(f, encoded=png_bomb(), format="PNG", height=30_000, width=30_000),
        RECORDS,
        "the manifest allows 1 to 50000000",
    ),
    "records of negative size": (lambda f: with_picture(f, height=-48, width=-64), RECORDS, "allows 1 to"),
    "a shard without end": (lambda f: replace(shard(f), endless), RECORDS, "not a regular file"),
    "a shard that is a pipe": (lambda f: replace(shard(f), os.mkfifo), RECORDS, "not a regular file"),
    "a shard that is a folder": (lambda f: replace(shard(f), os.mkdir), RECORDS, "not a regular file"),
    "a table that is a pipe": (lambda f: replace(f / "images.parquet", os.mkfifo), ALL - {"status"}, "images.parquet"),
    "a table of rubbish": (
        lambda f: (f / "images.parquet").write_bytes(b"PAR1" + bytes(range(256)) * 40 + b"\xff\xff\0\0PAR1"),
        ALL - {"status"},
        "images.parquet in .* is damaged",
    ),
    "a table of nothing": (lambda f: (f / "images.parquet").write_bytes(b""), ALL - {"status"}, "is damaged"),
    "a table of more rows than records": (
        lambda f: many_rows(f),
        ALL - {"status"},
        "it has 12000 rows, the data set 6 records",
    ),
    "records before the shard": (
        lambda f: edit_table(f, "record_bytes", lambda values: [-(10**12)] * len(values)),
        {"view", "html", "report"},
        "images.parquet says that",
    ),
    "records beyond all memory": (
        lambda f: edit_table(f, "record_bytes", lambda values: [2**62] * len(values)),
        {"view", "html", "report"},
        "images.parquet says that",
    ),
    "shards that are not there": (
        lambda f: edit_table(f, "shard", lambda values: [2**31 - 1] * len(values)),
        RECORDS,
        "in shard 2147483647 of 1|it has 0 rows",
    ),
    "times without end": (lambda f: edit_table(f, "ms/decode", lambda values: [1e308] * len(values)), set(), ""),
    "a ledger of rubbish": (
        lambda f: (f / "failures.jsonl").write_bytes(b"[" * 100_000),
        {"validate", "deep", "report"},
        "fail",
    ),
    "a ledger without end": (
        lambda f: replace(f / "failures.jsonl", endless),
        {"validate", "deep", "report"},
        "failures",
    ),
    "a manifest without end": (lambda f: replace(f / "manifest.json", endless), ALL, "not a regular file"),
    "a manifest that is a pipe": (lambda f: replace(f / "manifest.json", os.mkfifo), ALL, "not a regular file"),
    "brackets": (lambda f: (f / "manifest.json").write_bytes(b"[" * 100_000), ALL, "nested too deep"),
    "braces": (lambda f: (f / "manifest.json").write_bytes(b'{"a":' * 100_000), ALL, "nested too deep"),
    "sizes as text": (
        lambda f: edit_manifest(f, lambda m: m["shards"][0].update(bytes="12")),
        ALL,
        r"shards\[0\].bytes should be a whole number",
    ),
    "a negative size": (
        lambda f: edit_manifest(f, lambda m: m["shards"][0].update(bytes=-5)),
        ALL,
        r"shards\[0\].bytes",
    ),
    "a list of categories": (
        lambda f: edit_manifest(f, lambda m: m.update(categories=[1])),
        ALL,
        "categories should be",
    ),
    "a number as config": (lambda f: edit_manifest(f, lambda m: m.update(config=5)), ALL, "config should be"),
    "layers in layers": (
        lambda f: edit_manifest(f, lambda m: m.update(layers=[m["layers"]])),
        ALL,
        r"layers\[0\] should be",
    ),
    "text as abo": (
        lambda f: edit_manifest(f, lambda m: m["abo"]["gt"].update(abo="high")),
        ALL,
        "abo.gt.abo should be",
    ),
    "layers exchanged": (
        lambda f: (f / "manifest.json").write_text(
            (f / "manifest.json")
            .read_text()
            .replace('"grid-2"', '"x"')
            .replace('"gt"', '"grid-2"')
            .replace('"x"', '"gt"')
        ),
        ALL,
        "manifest_digest is that of another content",
    ),
    "checksums without end": (lambda f: replace(f / "SHA256SUMS", endless), {"validate", "deep"}, "not a regular file"),
    "checksums of rubbish": (
        lambda f: (f / "SHA256SUMS").write_bytes(b"\xff\n" * 9),
        {"validate", "deep"},
        "SHA256SUMS",
    ),
}


def tried(attack: str) -> list[str]:
    """Commands that are tried on a folder: all in the long form (`make processes`); else the first two that must refuse it, and
    one that changes with the attack, so that every command meets several."""
    if os.environ.get("MASKMILL_REPEATS"):
        return list(COMMANDS)
    refusing = [name for name in COMMANDS if name in ATTACKS[attack][1]][:2]
    others = [name for name in COMMANDS if name not in refusing]
    return [*refusing, others[list(ATTACKS).index(attack) % len(others)]]


def test_every_command_is_tried_on_several_attacks():
    met = [name for attack in ATTACKS for name in tried(attack)]
    assert {name for name in COMMANDS if met.count(name) < 2} == set()


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_enemys_folder_is_refused_in_one_sentence(attack, sound, folder, tmp_path, capsys):
    change, refused_by, words = ATTACKS[attack]
    change(folder)
    places = {"FOLDER": str(folder), "SOUND": str(sound), "VIEW": str(tmp_path / "v"), "REPORT": str(tmp_path / "r")}
    said = ""
    for name in tried(attack):
        command = COMMANDS[name]
        start = time.monotonic()
        code = main([places.get(word, word) for word in command])
        assert time.monotonic() - start < SECONDS, name
        error = capsys.readouterr().err
        assert "internal error" not in error, (name, error)
        assert "Traceback" not in error, (name, error)
        assert code in ((4, 5) if name in refused_by else (0, 5)), (name, code, error)
        if command[0] != "validate":
            lines = [line for line in error.splitlines() if "measuring its records" not in line]
            assert len(lines) == (1 if code else 0), (name, error)
            assert len(error) < 700, name
        said += error
    assert re.search(words, said), said


@pytest.mark.parametrize("name", ["_work", "images"])
@pytest.mark.parametrize("words", [("--overwrite",), ()])
def test_nothing_is_removed_through_a_link(name, words, folder, tmp_path, capsys):
    """A folder whose `_work` or `images` leads to the user's own files costs none of them."""
    theirs = tmp_path / "theirs"
    (theirs / "parts").mkdir(parents=True)
    for path in ("00000.parquet", "parts/letter.incomplete", "plan.json"):
        (theirs / path).write_text("mine")
    before = sorted(theirs.rglob("*"))
    (folder / name).symlink_to(theirs)
    images, annotations = write_coco(tmp_path / "data", 6)
    given = ["--dataset", "coco", "--images", images, "--annotations", annotations, "--masks", "grid(n=2)"]
    assert main(["build", *given, *words, "--workers", "0", "--out", str(folder)]) == 4
    told = capsys.readouterr().err
    assert f"{folder / name} is a link to {theirs}, and a build removes files from this folder; remove the link" in told
    assert sorted(theirs.rglob("*")) == before


def test_a_configuration_of_brackets_is_refused(tmp_path):
    for content in (b"[" * 2000, b"a: " + b"{b: " * 2000, b"images: 2024-99-99", b"\xff\xfe\0"):
        (tmp_path / "recipe.yaml").write_bytes(content)
        with pytest.raises(InputError, match=r"recipe.yaml cannot be read as YAML: ") as caught:
            read_config_file(str(tmp_path / "recipe.yaml"), {"images": str})
        assert "internal" not in str(caught.value)


def test_the_bomb_is_one():
    import cv2
    import numpy as np

    assert cv2.imdecode(np.frombuffer(png_bomb(300), np.uint8), 1).shape == (300, 300, 3)
    assert len(png_bomb()) < 3 << 20
    assert io.BytesIO(png_bomb()).read(8) == b"\x89PNG\r\n\x1a\n"
