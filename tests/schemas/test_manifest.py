"""The manifest as the gate to a data set."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.schemas import manifest as manifest_module
from maskmill.schemas.errors import DamageError, InputError, MaskmillError
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.unlink(), "its shards are in shards.parquet, which is missing beside it"),
        (lambda table: table.write_bytes(b"PAR1 not really"), "shards.parquet, which cannot be read: "),
        (
            lambda table: table.write_bytes(make_manifest(shards=shards(4)[::-1]).shard_table()),
            "shards.parquet beside it lists other shards than it was made with",
        ),
    ],
)
def test_many_shards_are_a_table_beside_the_manifest(change, words, tmp_path, monkeypatch):
    few = make_manifest(shards=shards(4), counts={"inputs": 12, "written": 12, "failed": 0, "skipped": 0})
    assert few.shard_table() is None
    monkeypatch.setattr(manifest_module, "SHARDS_INSIDE", 3)
    (tmp_path / "manifest.json").write_bytes(few.to_json())
    (tmp_path / "shards.parquet").write_bytes(few.shard_table())
    assert json.loads(few.to_json())["shards"] == []
    many = load_manifest(str(tmp_path))
    assert many == few
    assert many.digest == json.loads(few.to_json())["manifest_digest"]
    assert many.digest != make_manifest(shards=shards(4)[::-1], counts=few.counts).digest
    change(tmp_path / "shards.parquet")
    with pytest.raises(DamageError, match=words):
        load_manifest(str(tmp_path))


def shards(count: int) -> tuple[Shard, ...]:
    return tuple(Shard(shard_name("demo", "train", i, count), 3, 10 + i, f"a{i}", "bb") for i in range(count))


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


def seal(fields: dict) -> bytes:
    """Bytes of a manifest with these fields and the digest that they ask for."""
    fields = {name: value for name, value in fields.items() if name != "manifest_digest"}
    return json.dumps({**fields, "manifest_digest": digest(fields)}).encode()


def edit(change) -> bytes:
    fields = json.loads(make_manifest().to_json())
    change(fields)
    return seal(fields)


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"{", DamageError, "is not JSON"),
        (b"[]", DamageError, "not a maskmill manifest"),
        (b"{}", DamageError, "no schema_version"),
        (b"\xff{}", DamageError, "is not JSON"),
        (b"[" * 100_000, DamageError, "nested too deep"),
        (b'{"schema_version": NaN}', DamageError, "NaN is not JSON"),
        (b'{"schema_version": ' + b"1" * 5000 + b"}", DamageError, "is not JSON"),
        (edit(lambda f: f.update(schema_version=2)), InputError, "schema version 2; this maskmill reads version 1"),
        (edit(lambda f: f.update(schema_version=deep(200))), InputError, "this maskmill reads version 1"),
        (edit(lambda f: f.update(schema_version=True)), DamageError, "schema_version should be a whole number"),
        (edit(lambda f: f.pop("shards")), DamageError, "shards is missing"),
        (edit(lambda f: f["shards"][0].pop("crc32c")), DamageError, r"shards\[0\].crc32c is missing"),
        (edit(lambda f: f["shards"][0].update(name="../../etc/passwd")), DamageError, "is not a shard's name"),
        (
            edit(lambda f: f["shards"][0].update(name="a\0.tfrecord-00000-of-00001")),
            DamageError,
            "is not a shard's name",
        ),
        (edit(lambda f: f["shards"].append(f["shards"][0])), DamageError, "is listed twice"),
        (
            edit(lambda f: f["shards"][0].update(bytes="10")),
            DamageError,
            r"here/manifest.json is damaged: shards\[0\].bytes should be a whole number from 0 on, got '10'",
        ),
        (edit(lambda f: f["shards"][0].update(bytes=-1)), DamageError, r"shards\[0\].bytes should be .* got -1"),
        (
            edit(lambda f: f["shards"][0].update(bytes=1 << 64)),
            DamageError,
            r"shards\[0\].bytes should be a whole number",
        ),
        (
            edit(lambda f: f["shards"][0].update(records=3.0)),
            DamageError,
            r"shards\[0\].records should be a whole number",
        ),
        (
            edit(lambda f: f.update(categories=["cat"])),
            DamageError,
            "categories should be a JSON object, got a JSON list",
        ),
        (edit(lambda f: f.update(categories={"1": 5})), DamageError, r"categories.1 should be text, got 5"),
        (edit(lambda f: f.update(config=7)), DamageError, "config should be a JSON object, got 7"),
        (
            edit(lambda f: f.update(config={"max_pixels": "all"})),
            DamageError,
            "config.max_pixels should be a whole number",
        ),
        (edit(lambda f: f.update(config={"x": deep(40)})), DamageError, "config.x is nested more than 32 deep"),
        (
            edit(lambda f: f.update(layers=[["fh-500"]])),
            DamageError,
            r"layers\[0\] should be a JSON object, got a JSON list",
        ),
        (edit(lambda f: f["layers"][1].update(name="fh-500")), DamageError, "layers: 'fh-500' is listed twice"),
        (
            edit(lambda f: f.update(abo={"fh-500": {}})),
            DamageError,
            "abo should have the layers fh-500, gt, has fh-500",
        ),
        (edit(lambda f: f["layers"][1].update(name="\ud800")), DamageError, r"layers: '.ud800' is not printable text"),
        (edit(lambda f: f.update(counts={"inputs": 5})), DamageError, "counts.written is missing"),
        (edit(lambda f: f["counts"].update(failed=None)), DamageError, "counts.failed should be a whole number"),
        (edit(lambda f: f["counts"].update(failed=0)), DamageError, "inputs are not written"),
        (edit(lambda f: f["counts"].update(written=2, failed=2)), DamageError, "2 written, but the shards hold 3"),
        (
            edit(lambda f: f.update(files=[{"name": "../x", "bytes": 1, "sha256": "aa"}])),
            DamageError,
            r"files\[0\].name: '../x' is not the name of a file",
        ),
    ],
)
def test_bad_manifests_are_refused_in_words(data, error, message):
    with pytest.raises(error, match=message) as caught:
        parse_manifest(data, "here/manifest.json")
    assert len(str(caught.value)) < 600


def test_its_own_digest_finds_what_was_changed_later():
    fields = json.loads(make_manifest().to_json())
    assert fields["manifest_digest"] == make_manifest().digest
    fields["layers"] = fields["layers"][::-1]  # training from the wrong masks
    with pytest.raises(DamageError, match="its manifest_digest is that of another content; copy the folder again"):
        parse_manifest(json.dumps(fields).encode(), "here")
    for name in ("manifest_digest", "files"):  # a damaged name of a field does not pass for an older manifest
        one = json.loads(make_manifest().to_json())
        one[f"x{name}"] = one.pop(name)
        with pytest.raises(DamageError, match="manifest_digest is that of another content"):
            parse_manifest(json.dumps(one).encode(), "here")


def test_a_manifest_of_an_older_maskmill_is_read_and_stays_as_it_is():
    older = make_manifest(files=None)
    fields = json.loads(older.to_json())
    assert "manifest_digest" not in fields
    assert "files" not in fields
    assert parse_manifest(older.to_json(), "here") == older
    assert older.digest == digest(fields)  # a run that was begun with it goes on


def test_unknown_fields_of_a_later_minor_version_are_read_over():
    assert parse_manifest(edit(lambda f: f.update(novelty=1)), "here") == make_manifest()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Every place of a JSON value, itself included."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


def put(value, path, new):
    """The value with another one at a place; None there removes a field."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if new is None and len(path) == 1 and isinstance(copy, dict):
        del copy[path[0]]
    else:
        copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


_WHOLE = json.loads(
    make_manifest(
        abo={n: {"abo": None, "instances": 0, "masks_per_image": 1.5, "coverage": 1} for n in ("fh-500", "gt")},
        categories={"1": "cat"},
    ).to_json()
)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_change_gives_a_manifest_or_a_maskmill_error(data):
    fields = _WHOLE
    for _ in range(data.draw(st.integers(1, 3))):
        fields = put(fields, data.draw(st.sampled_from(list(places(fields)))), data.draw(_JSON))
    sealed = isinstance(fields, dict) and data.draw(st.booleans())
    try:
        content = seal(fields) if sealed else json.dumps(fields).encode()
    except ValueError:  # NaN has no canonical spelling
        content = json.dumps(fields).encode()
    try:
        manifest = parse_manifest(content, "here")
    except MaskmillError:
        return
    assert parse_manifest(manifest.to_json(), "here") == manifest
    assert len(manifest.digest) == 64
    assert manifest.max_pixels > 0


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
