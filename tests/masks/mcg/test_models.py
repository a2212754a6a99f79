import dataclasses
import hashlib
import io
import json
import zipfile

import numpy as np
import pytest

from maskmill.masks.mcg import models
from maskmill.masks.mcg.models import load_model, model_bytes, parse_model
from maskmill.masks.mcg.trees import pack_trees

FEATURES = ("a", "b")


@pytest.fixture(scope="module")
def trees():
    inner = {"feature": 1, "threshold": 0.5, "left": {"value": 1.0}, "right": {"value": 2.0}}
    return pack_trees([inner, {"value": 0.25}])


@pytest.fixture
def saved(trees, tmp_path):
    data = model_bytes(trees, "ranker", FEATURES)
    file = tmp_path / "mine.npz"
    file.write_bytes(data)
    card = {"labels": ["COCO"], "images_sha256": "0", "model_sha256": hashlib.sha256(data).hexdigest()}
    (tmp_path / "mine.json").write_text(json.dumps(card))
    return file


def rewritten(data: bytes, **change) -> bytes:
    """The archive with arrays replaced (or left out where None)."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            name = info.filename.removesuffix(".npy")
            if name not in change:
                new.writestr(info.filename, old.read(info))
            elif change[name] is not None:
                member = io.BytesIO()
                np.save(member, change[name], allow_pickle=True)
                new.writestr(info.filename, member.getvalue())
    return out.getvalue()


def test_a_model_comes_back_as_it_went(trees):
    data = model_bytes(trees, "ranker", FEATURES)
    assert data == model_bytes(trees, "ranker", FEATURES)
    back = parse_model(data, "ranker", FEATURES)
    for field in dataclasses.fields(trees):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(trees, field.name))


@pytest.mark.parametrize("keep", [0, 1, 30, 0.5, -1])
def test_truncated_files_are_refused(trees, keep):
    data = model_bytes(trees, "ranker", FEATURES)
    cut = data[: int(len(data) * keep)] if isinstance(keep, float) else data[:keep]
    with pytest.raises(ValueError, match=r"not a readable \.npz"):
        parse_model(cut, "ranker", FEATURES)


def test_flipped_bytes_never_pass_unnoticed_or_raise_anything_else(trees):
    data = bytearray(model_bytes(trees, "ranker", FEATURES))
    whole = parse_model(bytes(data), "ranker", FEATURES)
    for at in range(0, len(data), 7):
        data[at] ^= 0x55
        try:
            model = parse_model(bytes(data), "ranker", FEATURES)
        except ValueError:
            pass
        else:  # dates, attributes and comments of the archive carry nothing
            assert model.predict(np.zeros((1, 2), np.float32)) == whole.predict(np.zeros((1, 2), np.float32))
        data[at] ^= 0x55


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": np.array([2], np.int32)}, "format \\[2\\]"),
        ({"format": np.array(["1"])}, "format"),
        ({"kind": np.array(["contour"])}, "'contour' model, a 'ranker' model is needed"),
        ({"features": np.array(["a", "c"])}, "other features"),
        ({"features": np.zeros(2)}, "list of words"),
        ({"value": None}, "a model holds"),
        ({"left": np.array([0, -1], np.int16)}, "goes back"),
        ({"left": np.array([object()], object)}, "allow_pickle"),
    ],
)
def test_what_is_not_our_model_is_refused_with_the_reason(trees, change, message):
    with pytest.raises(ValueError, match=message):
        parse_model(rewritten(model_bytes(trees, "ranker", FEATURES), **change), "ranker", FEATURES)


def test_archives_that_unpack_to_too_much_are_not_unpacked(trees, monkeypatch):
    monkeypatch.setattr(models, "MAX_ARRAY_BYTES", 100)
    with pytest.raises(ValueError, match="unpack to more"):
        parse_model(model_bytes(trees, "ranker", FEATURES), "ranker", FEATURES)


def test_loading_gives_digest_and_provenance(saved):
    model = load_model(str(saved), "ranker", FEATURES)
    assert model.provenance == {
        "sha256": hashlib.sha256(saved.read_bytes()).hexdigest(),
        "labels": ["COCO"],
        "images_sha256": "0",
    }


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.unlink(), r"mine\.npz: No such file"),
        (lambda f: f.with_suffix(".json").unlink(), r"mine\.json: No such file"),
        (lambda f: f.with_suffix(".json").write_text("{"), "not JSON"),
        (lambda f: f.with_suffix(".json").write_text("[]"), "lacks labels"),
        (lambda f: f.write_bytes(f.read_bytes()[:100]), "not a readable"),
    ],
)
def test_missing_and_damaged_files_are_named(saved, spoil, message):
    spoil(saved)
    with pytest.raises(ValueError, match=message):
        load_model(str(saved), "ranker", FEATURES)


def test_a_card_of_another_model_is_noticed(saved, trees):
    saved.write_bytes(model_bytes(pack_trees([{"value": 1.0}]), "ranker", FEATURES))
    with pytest.raises(ValueError, match="belongs to another model"):
        load_model(str(saved), "ranker", FEATURES)
