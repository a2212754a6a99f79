"""Raw COCO annotations: pycocotools' pixels for good ones, a reason for each kind of bad one."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskmill.pipelines.reading.annotations import AnnotationError, parse_annotation, parse_annotations
from maskmill.schemas import rle
from maskmill.schemas.errors import ImageError

SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 6.0, 2.0, 6.0]


def raw(**changes) -> dict:
    return {"id": 5, "category_id": 90, "iscrowd": 0, "segmentation": [SQUARE], **changes}


def test_polygon_parts_become_one_mask():
    other = [12.0, 1.0, 15.0, 1.0, 15.0, 9.0]
    counts, area, category, identity, crowd = parse_annotation(raw(segmentation=[SQUARE, other]), 10, 20)
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([SQUARE, other], 10, 20)))
    assert np.array_equal(rle.decode_mask(counts, 10, 20), expected.astype(bool))
    assert (area, category, identity, crowd) == (expected.sum(), 90, 5, False)


def test_both_spellings_of_rle_give_the_same_mask():
    mask = np.zeros((10, 20), bool)
    mask[3:7, 4:9] = True
    listed = {"size": [10, 20], "counts": rle.mask_to_runs(mask).tolist()}
    packed = {"size": [10, 20], "counts": rle.encode_mask(mask).decode()}
    for segmentation in (listed, packed):
        counts, area, *_, crowd = parse_annotation(raw(segmentation=segmentation, iscrowd=1), 10, 20)
        assert np.array_equal(rle.decode_mask(counts, 10, 20), mask)
        assert area == 20
        assert crowd


def sized(counts) -> dict:
    return {"size": [10, 20], "counts": counts}


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"segmentation": [[1, 1, 2, 2]]}, "bad_annotation", "at least 3 points .* got 4"),
        ({"segmentation": [[1, 1, 2, 2, 3, 3, 4]]}, "bad_annotation", "an even count"),
        ({"segmentation": [[1, 1, 9, 1, float("nan"), 5]]}, "bad_annotation", "finite numbers"),
        ({"segmentation": [[1, 1, 9, 1, float("inf"), 5]]}, "bad_annotation", "finite numbers"),
        ({"segmentation": [[1, 1, 9, 1, "7", 5]]}, "bad_annotation", "finite numbers"),
        ({"segmentation": [[1, 1, 1e30, 1, 5, 5]]}, "bad_annotation", r"x spans 1 \.\. 1e\+30, the picture 0 \.\. 20"),
        ({"segmentation": [[1, -50, 9, 1, 5, 5]]}, "bad_annotation", r"y spans -50 \.\. 5"),
        ({"segmentation": [[1, 1, 1, 1, 1, 1]]}, "bad_annotation", "no pixel"),
        ({"segmentation": []}, "bad_annotation", "empty"),
        ({"segmentation": None}, "bad_annotation", "no segmentation"),
        ({"segmentation": [7]}, "bad_annotation", "got int"),
        ({"segmentation": [[1.5] * 300_000]}, "bad_annotation", "over the limit"),
        ({"segmentation": sized([3])}, "bad_rle", "sum to 3"),
        ({"segmentation": sized([-1, 201])}, "bad_rle", "negative"),
        ({"segmentation": sized([10**30])}, "bad_rle", "whole numbers"),
        ({"segmentation": sized([1.5, 198.5])}, "bad_rle", "whole numbers"),
        ({"segmentation": sized("~~")}, "bad_rle", "outside 48"),
        ({"segmentation": sized("é")}, "bad_rle", "broken"),
        ({"segmentation": sized(None)}, "bad_rle", "text or a list"),
        ({"segmentation": {"size": [20, 10], "counts": [200]}}, "bad_rle", "size"),
        ({"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}, "bad_rle", "size"),
        ({"segmentation": {}}, "bad_rle", "size None"),
        ({"category_id": "dog"}, "bad_annotation", "category_id is \"'dog'\"|category_id is 'dog'"),
        ({"id": 2**63}, "bad_annotation", "64 bits"),
        ({"id": None}, "bad_annotation", "its id is"),
        ({"iscrowd": "yes"}, "bad_annotation", "iscrowd"),
    ],
)
def test_bad_annotations_have_the_right_reason_and_words(changes, reason, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        parse_annotation(raw(**changes), 10, 20)
    assert caught.value.reason == reason


def test_an_image_fails_with_the_annotation_named_or_drops_it():
    good, bad = raw(), raw(id=6, segmentation=[[1, 1]])
    with pytest.raises(ImageError, match="annotation 6: a polygon needs") as caught:
        parse_annotations((good, bad), 10, 20)
    assert (caught.value.reason, caught.value.stage) == ("bad_annotation", "annotate")
    kept, dropped = parse_annotations((good, bad), 10, 20, drop_bad=True)
    assert (len(kept), dropped) == (1, 1)


def test_a_list_of_more_runs_than_pixels_is_refused():
    with pytest.raises(AnnotationError, match="500 runs are more than 10 x 20 pixels can have"):
        parse_annotation(raw(segmentation={"size": [10, 20], "counts": [200] + [0] * 499}), 10, 20)


def test_two_annotations_of_one_id_are_refused():
    with pytest.raises(ImageError, match="annotation 5: its id was used before") as caught:
        parse_annotations((raw(), raw()), 10, 20)
    assert caught.value.reason == "duplicate_id"


def test_order_is_by_annotation_id():
    gt, _ = parse_annotations((raw(id=900_100_000_001), raw(id=3), raw(id=7)), 10, 20)
    assert gt.annotation_id.tolist() == [3, 7, 900_100_000_001]


def test_every_real_annotation_is_pycocotools(test_data):
    path = test_data / "coco" / "instances.json"
    coco = COCO(str(path))
    sizes = {i["id"]: (i["height"], i["width"]) for i in json.loads(path.read_text())["images"]}
    crowds = 0
    for annotation in coco.dataset["annotations"]:
        counts, area, *_, crowd = parse_annotation(annotation, *sizes[annotation["image_id"]])
        expected = coco.annToRLE(annotation)
        assert counts == expected["counts"]
        assert area == coco_mask.area(expected)
        crowds += crowd
    assert crowds == 28
