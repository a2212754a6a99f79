"""The manifest as the gate to a data set."""

import json

import pytest

from maskmill.schemas.errors import DamageError, InputError
from maskmill.schemas.manifest import Manifest, Shard, digest, is_shard_name, load_manifest, parse_manifest, shard_name
from maskmill.schemas.mask import Layer


def make_manifest(**changes) -> Manifest:
    fields = {
        "dataset": "demo",
        "split": "train",
        "config": {"seed": 0},
        "config_digest": digest({"seed": 0}),
        "layers": (Layer("fh-500", "fh", {"scale": 500}), Layer("gt", "gt", {})),
        "shards": (Shard(shard_name("demo", "train", 0, 1), 3, 10, "aa", "bb"),),
        "counts": {"inputs": 5, "written": 3, "failed": 1, "skipped": 1},
        "decoder": {"name": "opencv"},
        "versions": {"maskmill": "0"},
    }
    return Manifest(**{**fields, **changes})


def test_round_trip_and_stable_bytes():
    manifest = make_manifest()
    back = parse_manifest(manifest.to_json(), "here")
    assert back == manifest
    assert back.to_json() == manifest.to_json()
    assert back.digest == manifest.digest != make_manifest(split="val").digest


def test_shard_names():
    assert shard_name("coco", "train", 3, 16) == "coco-train.tfrecord-00003-of-00016"
    assert is_shard_name("coco-train.tfrecord-00003-of-00016")
    for name in (
        "../x.tfrecord-00000-of-00001",
        "a/b.tfrecord-00000-of-00001",
        "manifest.json",
        ".tfrecord-00000-of-00001",
    ):
        assert not is_shard_name(name)


def edit(change) -> bytes:
    fields = json.loads(make_manifest().to_json())
    change(fields)
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"{", DamageError, "is not JSON"),
        (b"[]", DamageError, "not a maskmill manifest"),
        (b"{}", DamageError, "no schema_version"),
        (edit(lambda f: f.update(schema_version=2)), InputError, "schema version 2; this maskmill reads version 1"),
        (edit(lambda f: f.pop("shards")), DamageError, "incomplete: 'shards'"),
        (edit(lambda f: f["shards"][0].pop("crc32c")), DamageError, "incomplete"),
        (edit(lambda f: f["shards"][0].update(name="../../etc/passwd")), DamageError, "is not a shard's name"),
        (edit(lambda f: f["counts"].update(failed=0)), DamageError, "inputs are not written"),
        (edit(lambda f: f["counts"].update(written=2, failed=2)), DamageError, "2 written, but the shards hold 3"),
    ],
)
def test_bad_manifests_are_refused_in_words(data, error, message):
    with pytest.raises(error, match=message):
        parse_manifest(data, "here/manifest.json")


def test_unknown_fields_of_a_later_minor_version_are_read_over():
    assert parse_manifest(edit(lambda f: f.update(novelty=1)), "here") == make_manifest()


def test_a_folder_without_manifest_is_no_data_set(tmp_path):
    with pytest.raises(InputError, match="not a maskmill data set"):
        load_manifest(str(tmp_path))
    (tmp_path / "_work").mkdir()
    (tmp_path / "_work" / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="has not finished; the same build command resumes it"):
        load_manifest(str(tmp_path))


def test_a_layer_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(InputError, match="no layer 'fh-1000'; it has fh-500, gt"):
        make_manifest().layer_index("fh-1000")
    assert make_manifest().layer_index("gt") == 1
