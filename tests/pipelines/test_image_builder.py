"""One image: every reason that comes from the picture meeting its annotations."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from drawn import draw

from maskmill.pipelines.driver.graph import BuildPart
from maskmill.pipelines.measuring.overlaps import ImageOverlaps
from maskmill.pipelines.parts.config import Settings
from maskmill.pipelines.parts.image_builder import ImageBuilder
from maskmill.pipelines.parts.plan import load_plan
from maskmill.pipelines.reading.inputs import Input
from maskmill.pipelines.reading.location import Location
from maskmill.schemas.example import decode_example
from maskmill.schemas.stats import IOU_UNIT

SETTINGS = Settings(("grid(n=(1, 3))", "gt()"), 1_000_000, False, False)
PIXELS, OUTLINES = draw(4)
DATA = cv2.imencode(".png", PIXELS)[1].tobytes()


def item(**changes) -> Input:
    annotations = tuple({"id": i, **a} for i, a in enumerate(OUTLINES))
    return dataclasses.replace(
        Input("a.png", Location("a.png"), "7", size=(48, 64), annotations=annotations), **changes
    )


def test_a_good_image_becomes_its_record_and_row():
    built = ImageBuilder(SETTINGS).build(item(), DATA)
    assert built.refusal is None
    example = decode_example(built.payload, 3)
    assert [len(m) for m in example.masks] == [1, 9, len(OUTLINES)] == built.row["masks"]
    assert built.row["instances"] == len(OUTLINES)
    assert built.row["iou_units"][2] == len(OUTLINES) * IOU_UNIT
    assert built.row["record_bytes"] == len(built.payload)
    assert set(built.row["ms"]) == {"decode", "annotate", "grid", "gt", "overlap", "encode"}


@pytest.mark.parametrize("changes", [{}, {"annotations": ()}])
def test_measurements_are_sent_as_they_are(changes):
    overlaps = ImageBuilder(SETTINGS).build(item(**changes), DATA).overlaps
    assert overlaps.to_json() == dataclasses.asdict(overlaps)
    assert ImageOverlaps.from_json(json.loads(json.dumps(overlaps.to_json()))) == overlaps


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"size": (64, 48)}, "size_mismatch", "says 48 x 64 pixels, the picture has 64 x 48"),
        ({"size": (-1, 10**9)}, "size_mismatch", "the picture has 64 x 48"),
        (
            {"annotations": ({"id": 1, "category_id": 1, "segmentation": [[1, 1, 2, 2]]},)},
            "bad_annotation",
            "annotation 1: ",
        ),
        (
            {"annotations": ({"id": 1, "category_id": 1, "segmentation": {"size": [48, 64], "counts": [5]}},)},
            "bad_rle",
            "sum to 5",
        ),
    ],
)
def test_what_does_not_fit_is_refused_at_the_annotations(changes, reason, message):
    refusal = ImageBuilder(SETTINGS).build(item(**changes), DATA).refusal
    assert (refusal.id, refusal.stage, refusal.reason) == ("a.png", "annotate", reason)
    assert message in refusal.message


def test_bad_annotations_can_be_dropped_and_are_counted():
    bad = {"id": 99, "category_id": 1, "segmentation": [[1, 1, 2, 2]]}
    settings = dataclasses.replace(SETTINGS, drop_bad_annotations=True)
    built = ImageBuilder(settings).build(item(annotations=(*item().annotations, bad)), DATA)
    assert built.row["dropped_annotations"] == 1
    assert built.row["instances"] == len(OUTLINES)


def test_an_image_without_annotations_is_a_record_unless_no_layer_has_a_mask():
    assert ImageBuilder(SETTINGS).build(item(annotations=()), DATA).refusal is None
    only_truth = dataclasses.replace(SETTINGS, masks=("gt()",))
    assert ImageBuilder(only_truth).build(item(annotations=()), DATA).refusal.reason == "no_masks"


def test_a_worker_with_other_software_refuses_to_work(coco, tmp_path, monkeypatch):
    from maskmill.pipelines.parts.plan import make_plan

    plan = make_plan(coco, str(tmp_path))
    assert load_plan(str(tmp_path)) == plan
    monkeypatch.setattr("maskmill.pipelines.driver.graph.versions", lambda: {**plan.versions, "numpy": "0.1"})
    worker = BuildPart(str(tmp_path), plan.digest, 60.0, False)
    with pytest.raises(RuntimeError, match=r"software is not the one the plan was made with:   numpy: '.*' -> '0\.1'"):
        worker.setup()
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="is gone or was replaced while this job ran"):
        BuildPart(str(tmp_path), "another", 60.0, False).setup()


def test_settings_and_pictures_are_not_shared_state():
    builder = ImageBuilder(SETTINGS)
    first = builder.build(item(), DATA).payload
    builder.build(item(annotations=()), cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes())
    assert builder.build(item(), DATA).payload == first
