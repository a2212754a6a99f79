"""Every kind of damage to a finished data set is found and named."""

import dataclasses
import json
import os
import random
import shutil
import subprocess

import numpy as np
import pytest
from drawn import write_coco
from enemy import png_bomb
from PIL import Image

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.dataset.checksums import file_of, renew_checksums
from maskmill.pipelines.dataset.validate import find_damage
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.schemas.errors import MaskmillError
from maskmill.schemas.example import encode_example
from maskmill.schemas.manifest import parse_manifest
from maskmill.schemas.reader import Dataset
from maskmill.schemas.tfrecord import frame

LEDGER = b'{"attempts": 1, "id": "x.txt", "message": "no", "outcome": "skipped", "reason": "not_an_image", "stage": "list"}\n'


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


def test_one_kind_of_damage_is_counted_as_one(folder, capsys):
    with (folder / "features.json").open("ab") as stream:
        stream.write(b" ")
    assert main(["validate", str(folder)]) == 5
    assert "maskmill: 1 kind of damage in" in capsys.readouterr().err


def test_a_flipped_bit(folder, capsys):
    data = bytearray(shard(folder).read_bytes())
    data[len(data) // 2] ^= 4
    shard(folder).write_bytes(bytes(data))
    found = damage(folder)
    assert any("its checksum is not the manifest's" in line for line in found)
    assert any("record" in line and "checksum of the record does not match" in line for line in found)
    assert main(["validate", str(folder)]) == 5
    assert f"maskmill: {len(found)} kinds of damage in" in capsys.readouterr().err
    assert main(["validate", str(folder), "--json"]) == 5
    assert len(json.loads(capsys.readouterr().out)["damage"]) == len(found)


def test_a_cut_and_a_missing_shard_are_both_named(folder):
    shard(folder, 0).write_bytes(shard(folder, 0).read_bytes()[:-3])
    shard(folder, 1).unlink()
    found = damage(folder)
    assert any(f"{shard(folder).name}: record" in line and "the file ends inside" in line for line in found)
    assert any(line.endswith("-00001-of-00002: missing, or not a regular file") for line in found)


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
    renew_checksums(str(folder), (name, "manifest.json"))


def test_a_record_twice(folder):
    rewrite(folder, lambda examples: [examples[0], *examples[:-1]])
    found = damage(folder)
    assert any("the same id is in" in line for line in found)
    assert any("its row of images.parquet is of another record" in line for line in found)


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
    assert any(f"images.parquet in {folder} is damaged and cannot be read: " in line for line in found)
    assert "failures.jsonl: 22 bytes, the manifest says 0" in found
    assert "images.parquet: its checksum is not that of SHA256SUMS" in found
    (folder / "failures.jsonl").unlink()
    (folder / "images.parquet").unlink()
    assert {f"{name}: missing, or not a regular file" for name in ("failures.jsonl", "images.parquet")} <= set(
        damage(folder)
    )


def reseal(folder, **changes) -> None:
    """Changes the manifest as its writer would have: its own digest and the checksums fit."""
    manifest = parse_manifest((folder / "manifest.json").read_bytes(), "")
    (folder / "manifest.json").write_bytes(dataclasses.replace(manifest, **changes).to_json())
    renew_checksums(str(folder), ("manifest.json",))


def found_flips(folder, name: str, count: int) -> int:
    """How many of `count` random single-bit flips of a file are found."""
    rng = random.Random(f"{name} {count}")
    good = (folder / name).read_bytes()
    found = 0
    for _ in range(count if good else 0):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(bytes(bad))
        try:
            found += next(find_damage(Dataset.open(str(folder))), None) is not None
        except MaskmillError:  # a manifest that no reader takes
            found += 1
    (folder / name).write_bytes(good)
    return found


def own_files(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.mark.timeout(3600)  # the long form
def test_every_flipped_bit_in_every_file_is_found(folder):
    count = int(os.environ.get("MASKMILL_FLIPS", "5"))
    (folder / "failures.jsonl").write_bytes(LEDGER)  # else it is empty
    entry = file_of("failures.jsonl", LEDGER)
    manifest = parse_manifest((folder / "manifest.json").read_bytes(), "")
    counts = {**manifest.counts, "inputs": 9, "skipped": 1}
    reseal(folder, counts=counts, files=(entry, *manifest.files[1:]))
    renew_checksums(str(folder), ("failures.jsonl",))
    assert damage(folder) == []
    names = own_files(folder)
    assert {"SHA256SUMS", "images.parquet", "report.html", "report.json", "manifest.json", "features.json"} < set(names)
    assert {name: found_flips(folder, name, count) for name in names} == dict.fromkeys(names, count)
    assert damage(folder) == []


def test_the_checksums_are_those_of_sha256sum(folder):
    tool = shutil.which("sha256sum") or pytest.skip("no sha256sum here")
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()[:-1]}
    assert listed == set(own_files(folder)) - {"SHA256SUMS"}
    assert subprocess.run([tool, "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0
    (folder / "report.html").write_bytes(b"changed")
    assert subprocess.run([tool, "-c", "--status", "SHA256SUMS"], cwd=folder).returncode == 1


def test_a_report_made_again_keeps_the_folder_valid(folder, sound, capsys):
    manifest = (folder / "manifest.json").read_bytes()
    before = (folder / "report.json").read_bytes()
    truth = json.loads((sound.parent / "data" / "instances.json").read_text())
    truth["annotations"] = truth["annotations"][1:]
    (folder.parent / "other.json").write_text(json.dumps(truth))
    assert main(["report", str(folder), "--annotations", str(folder.parent / "other.json")]) == 0
    assert (folder / "report.json").read_bytes() != before
    assert (folder / "manifest.json").read_bytes() == manifest
    assert damage(folder) == []
    assert main(["report", str(folder), "--out", str(folder.parent / "elsewhere")]) == 0
    assert damage(folder) == []
    assert not (folder.parent / "elsewhere" / "SHA256SUMS").exists()


def test_a_file_that_is_gone_or_too_many_is_named(folder):
    for name in ("features.json", "report.html", "report.json", "dataset_info.json", "SHA256SUMS"):
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        assert any(line.startswith(f"{name}: missing") for line in damage(folder))
        (folder / name).write_bytes(data)
    shutil.copy(shard(folder), folder / "coco-train.tfrecord-00002-of-00003")
    (folder / "notes.txt").write_text("a stranger's file is no damage")
    (line,) = damage(folder)
    assert line.startswith("coco-train.tfrecord-00002-of-00003: not in the manifest")


def test_a_missing_shard_is_all_that_is_said(folder):
    shard(folder, 0).unlink()
    assert damage(folder) == ["coco-train.tfrecord-00000-of-00002: missing, or not a regular file"]


def test_what_the_manifest_says_of_all_records_is_counted_again(folder):
    manifest = parse_manifest((folder / "manifest.json").read_bytes(), "")
    abo = {name: {**row, "abo": row["abo"] / 2, "masks_per_image": 5.0} for name, row in manifest.abo.items()}
    counts = {**manifest.counts, "dropped_annotations": 3}
    reseal(folder, config_digest="0" * 64, abo=abo, decoder={"name": "x", "reencoded": {"gif": 1}}, counts=counts)
    found = damage(folder)
    assert "manifest.json: config_digest is not that of its config" in found
    assert any(line.startswith("manifest.json: abo of layer grid-2 is 0.") for line in found)
    assert "manifest.json: masks_per_image of layer grid-2 is 5.0, of the records 4.0" in found
    assert "manifest.json: its count of dropped annotations is not that of images.parquet" in found
    assert "manifest.json: its counts of pictures stored as other bytes are not those of images.parquet" in found
    assert len(found) == 5


def test_a_folder_of_an_older_maskmill_is_read_and_said_to_be_checked_less(folder, capsys):
    manifest = parse_manifest((folder / "manifest.json").read_bytes(), "")
    (folder / "manifest.json").write_bytes(dataclasses.replace(manifest, files=None).to_json())
    (folder / "SHA256SUMS").unlink()
    assert main(["validate", str(folder)]) == 0
    assert "note: it was made by an older maskmill, without digests" in capsys.readouterr().out
    assert main(["validate", str(folder), "--json"]) == 0
    assert "older maskmill" in json.loads(capsys.readouterr().out)["unchecked"]
    assert main(["report", str(folder)]) == 0
    assert not (folder / "SHA256SUMS").exists()


def with_picture(folder, **changes) -> None:
    """Changes the first record, and everything that vouches for it but `images.parquet`."""
    rewrite(folder, lambda examples: [dataclasses.replace(examples[0], **changes), *examples[1:]])


def test_deep_decodes_the_pictures_and_compares_their_digests(folder, capsys):
    assert main(["validate", str(folder), "--deep"]) == 0
    assert "agrees with the manifest, and every picture decodes" in capsys.readouterr().out
    example = next(iter(Dataset.open(str(folder))))
    with_picture(folder, encoded=example.encoded[: len(example.encoded) // 2])
    assert damage(folder) == []  # its header is whole
    found = list(find_damage(Dataset.open(str(folder)), deep=True))
    assert any("record 0" in line and "the picture: " in line for line in found)
    assert any("record 0" in line and "digest is not image/key/sha256" in line for line in found)
    assert main(["validate", str(folder), "--deep"]) == 5


def test_a_picture_that_was_stored_as_other_bytes_has_another_digest_and_is_sound(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "images" / "a.gif")
    config = BuildConfig("folder", str(tmp_path / "images"), ("grid(n=2)",))
    build(config, str(tmp_path / "out"), RunOptions(workers=0), quiet=True)
    assert list(find_damage(Dataset.open(str(tmp_path / "out")), deep=True)) == []


def test_a_picture_of_another_size_is_found_without_decoding_it(folder):
    with_picture(folder, encoded=png_bomb())
    (line,) = damage(folder)
    assert "record 0" in line
    assert "the stored picture has 30000 x 30000 pixels, its record says 64 x 48" in line
    with_picture(folder, height=30_000, width=30_000)
    assert any("30000 x 30000 pixels, of which the manifest allows 1 to 50000000" in line for line in damage(folder))
