"""The record: round trip, TensorFlow as the oracle of the wire format, and every kind of damage."""

import dataclasses

import numpy as np
import pytest

from maskmill.schemas import example_pb2, rle
from maskmill.schemas.errors import DamageError
from maskmill.schemas.example import (
    FEATURES,
    ImageExample,
    check_example,
    decode_example,
    encode_example,
    parse_features,
)
from maskmill.schemas.image import Annotations
from maskmill.schemas.mask import MaskSet


def make_example(**changes) -> ImageExample:
    """A 4 x 6 record of two layers (2 masks, 1 mask) and two annotations, one of them a crowd."""
    left, right, dot = np.zeros((3, 4, 6), bool)
    left[:, :3], right[:, 3:], dot[1, 2] = True, True, True
    counts = [rle.encode_mask(m) for m in (left, right, dot)]
    fields = {
        "encoded": b"\xff\xd8 not really",
        "format": "JPEG",
        "height": 4,
        "width": 6,
        "filename": "n01440764/é.JPEG",
        "sha256": "00" * 32,
        "masks": (
            MaskSet.unranked(counts[:2], [12, 12]),
            MaskSet((counts[2],), np.array([1]), np.array([0.25], np.float32)),
        ),
        "annotations": Annotations(
            (counts[0], counts[2]),
            np.array([12, 1]),
            np.array([90, 1]),
            np.array([7, 900_100_000_001]),
            np.array([False, True]),
        ),
        "best_iou": np.array([[1.0, -1.0], [1 / 12, -1.0]]),
        "source_id": "139",
        "label": 3,
        "synset": "n01440764",
        "text": "tench",
    }
    return ImageExample(**{**fields, **changes})


def test_round_trip_keeps_everything():
    example = make_example()
    back = decode_example(encode_example(example), 2)
    for field in dataclasses.fields(ImageExample):
        if field.name not in ("masks", "annotations", "best_iou"):
            assert getattr(back, field.name) == getattr(example, field.name), field.name
    assert [m.counts for m in back.masks] == [m.counts for m in example.masks]
    assert back.masks[1].score.tolist() == [0.25]
    assert back.annotations.annotation_id.tolist() == [7, 900_100_000_001]
    assert back.annotations.is_crowd.tolist() == [False, True]
    np.testing.assert_allclose(back.best_iou, example.best_iou, atol=1e-7)
    check_example(back)


def test_the_same_record_gives_the_same_bytes():
    assert encode_example(make_example()) == encode_example(make_example())
    assert encode_example(make_example(label=4)) != encode_example(make_example())


def test_empty_layers_and_no_annotations_survive():
    empty = MaskSet.unranked([], [])
    example = make_example(
        masks=(empty, make_example().masks[0], empty), annotations=Annotations(), best_iou=np.zeros((3, 0))
    )
    back = decode_example(encode_example(example), 3)
    assert [len(m) for m in back.masks] == [0, 2, 0]
    assert back.best_iou.shape == (3, 0)


def test_tensorflow_parses_our_bytes_and_writes_the_same():
    tf = pytest.importorskip("tensorflow")
    parsed = tf.train.Example.FromString(encode_example(make_example()))
    assert parsed.SerializeToString(deterministic=True) == encode_example(make_example())
    assert set(parsed.features.feature) == set(FEATURES)
    assert list(parsed.features.feature["gt/annotation_id"].int64_list.value) == [7, 900_100_000_001]
    assert parsed.features.feature["image/filename"].bytes_list.value[0].decode() == "n01440764/é.JPEG"


def test_masks_only_records_have_no_picture():
    back = decode_example(encode_example(make_example(encoded=None)), 2)
    assert back.encoded is None


def edited(edit) -> bytes:
    message = example_pb2.Example()
    message.ParseFromString(encode_example(make_example()))
    edit(message.features.feature)
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f.pop("masks/area"), "missing from the record: masks/area"),
        (lambda f: f["image/extra"].int64_list.value.append(1), "'image/extra' is not in schema version 1"),
        (lambda f: f["image/height"].float_list.value.append(1), "'image/height' should be int, is float_list"),
        (lambda f: f["image/width"].int64_list.value.append(1), "'image/width' should hold one value, holds 2"),
        (lambda f: f["masks/area"].int64_list.value.append(1), "lists of masks/ differ in length"),
        (lambda f: f["masks/layer"].int64_list.value.__setitem__(0, 1), "must rise within 0..1"),
        (lambda f: f["masks/layer"].int64_list.value.__setitem__(2, 2), "must rise within 0..1"),
        (lambda f: f["gt/best_iou"].float_list.value.append(1), "5 values for 2 layers x 2 annotations"),
        (lambda f: f["image/class/text"].bytes_list.value.__setitem__(0, b"\xff"), "not UTF-8"),
    ],
)
def test_contradictions_are_named(edit, message):
    with pytest.raises(DamageError, match=message):
        decode_example(edited(edit), 2)


def test_bytes_that_are_no_example():
    with pytest.raises(DamageError, match=r"not a tf\.train\.Example"):
        parse_features(b"\xff\xff\xff")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f["masks/counts"].bytes_list.value.__setitem__(1, b"0"), "mask 1 of layer 0: runs sum to 0"),
        (lambda f: f["masks/area"].int64_list.value.__setitem__(0, 11), "the area says 11 pixels, the RLE has 12"),
        (lambda f: f["gt/counts"].bytes_list.value.__setitem__(0, b"~"), "annotation 0: byte 0"),
        (lambda f: f["gt/best_iou"].float_list.value.__setitem__(1, 0.5), "crowd must be -1"),
        (lambda f: f["gt/best_iou"].float_list.value.__setitem__(0, 1.5), "outside 0..1"),
        (lambda f: f["gt/best_iou"].float_list.value.__setitem__(0, float("nan")), "outside 0..1"),
    ],
)
def test_check_finds_what_decoding_trusts(edit, message):
    with pytest.raises(DamageError, match=message):
        check_example(decode_example(edited(edit), 2))


def test_overlaps_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2\), but the record has 2 layers and 2 annotations"):
        encode_example(make_example(best_iou=np.zeros((1, 2))))
