"""Every kind of damage to a finished data set is found and named."""

import dataclasses
import json
import shutil

import pytest
from drawn import write_coco

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.dataset.validate import find_damage
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.schemas.example import encode_example
from maskmill.schemas.manifest import parse_manifest
from maskmill.schemas.reader import Dataset
from maskmill.schemas.tfrecord import frame


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    images, annotations = write_coco(root / "data", 8)
    config = BuildConfig("coco", images, ("grid(n=2)",), annotations=annotations, num_shards=2)
    build(config, str(root / "out"), RunOptions(workers=0), quiet=True)
    return root / "out"


@pytest.fixture
def folder(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def damage(folder) -> list[str]:
    return list(find_damage(Dataset.open(str(folder))))


def shard(folder, index=0):
    return sorted(folder.glob("*.tfrecord-*"))[index]


def test_a_sound_data_set_has_none(folder, capsys):
    assert damage(folder) == []
    assert main(["validate", str(folder)]) == 0
    assert "valid: 8 records in 2 shards" in capsys.readouterr().out


def test_a_flipped_bit(folder, capsys):
    data = bytearray(shard(folder).read_bytes())
    data[len(data) // 2] ^= 4
    shard(folder).write_bytes(bytes(data))
    found = damage(folder)
    assert any("its checksum is not the manifest's" in line for line in found)
    assert any("record" in line and "checksum of the record does not match" in line for line in found)
    assert main(["validate", str(folder)]) == 5
    assert "kinds of damage" in capsys.readouterr().err
    assert main(["validate", str(folder), "--json"]) == 5
    assert len(json.loads(capsys.readouterr().out)["damage"]) == len(found)


def test_a_cut_and_a_missing_shard_are_both_named(folder):
    shard(folder, 0).write_bytes(shard(folder, 0).read_bytes()[:-3])
    shard(folder, 1).unlink()
    found = damage(folder)
    assert any(f"{shard(folder).name}: record" in line and "the file ends inside" in line for line in found)
    assert any(line.endswith("-00001-of-00002: missing") for line in found)


def rewrite(folder, change) -> None:
    """Rewrites the first shard's records and its checksums, as a careless tool would: only the contents are wrong."""
    import hashlib

    import google_crc32c

    manifest = parse_manifest((folder / "manifest.json").read_bytes(), "")
    name = manifest.shards[0].name
    examples = [e for e in Dataset.open(str(folder)) if True][: manifest.shards[0].records]
    data = b"".join(frame(encode_example(e)) for e in change(examples))
    (folder / name).write_bytes(data)
    new = dataclasses.replace(
        manifest.shards[0],
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        crc32c=google_crc32c.Checksum(data).hexdigest().decode(),
    )
    (folder / "manifest.json").write_bytes(dataclasses.replace(manifest, shards=(new, *manifest.shards[1:])).to_json())


def test_a_record_twice(folder):
    rewrite(folder, lambda examples: [examples[0], *examples[:-1]])
    found = damage(folder)
    assert any("the same id is in" in line for line in found)
    assert any("images.parquet: its 8 rows are not the 7 records" in line for line in found)


def test_a_wrong_area(folder):
    def change(examples):
        masks = dataclasses.replace(examples[1].masks[0], area=examples[1].masks[0].area + 1)
        return [examples[0], dataclasses.replace(examples[1], masks=(masks,)), *examples[2:]]

    rewrite(folder, change)
    (line,) = damage(folder)
    assert "record 1" in line
    assert "mask 0 of layer 0: the area says" in line


def test_a_record_too_few(folder):
    rewrite(folder, lambda examples: examples[:-1])
    assert any("the manifest says" in line for line in damage(folder))


def test_tables_that_do_not_agree(folder):
    (folder / "failures.jsonl").write_text('{"outcome": "failed"}\n')
    (folder / "images.parquet").write_bytes(b"PAR1 not really")
    found = damage(folder)
    assert "failures.jsonl: 1 failed, the manifest says 0" in found
    assert any(line.startswith("images.parquet: damaged") for line in found)
    (folder / "failures.jsonl").unlink()
    (folder / "images.parquet").unlink()
    assert {"failures.jsonl: missing", "images.parquet: missing"} <= set(damage(folder))
