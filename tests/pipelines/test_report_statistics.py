"""The report's numbers against slow references, and how statistics merge."""

import functools
import hashlib
import itertools
import json
import math
import operator

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from hypothesis import given, settings
from hypothesis import strategies as st
from reporting import LAYERS, json_of, random_record, stats_of, to_annotations

from maskmill.masks.runs import encode_label_map
from maskmill.pipelines.measuring.bootstrap import REPLICATES, image_key, interval, weights
from maskmill.pipelines.measuring.overlaps import BUDGETS, measure
from maskmill.pipelines.measuring.repeats import Repeats
from maskmill.pipelines.measuring.series import Series, series_of, widest
from maskmill.pipelines.measuring.statistics import ReportStats
from maskmill.schemas import rle
from maskmill.schemas.mask import Layer, MaskSet

RECORDS = [random_record(seed) for seed in range(150)]


@pytest.fixture(scope="module")
def document():
    return json_of(stats_of([example for example, _, _ in RECORDS]))


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def best_of(layers):
    """The reference: (best IoU, category, area) of every instance that is no crowd, from drawn masks."""
    found = []
    for example, masks, pictures in RECORDS:
        mine = [m for i in layers for m in masks[i]]
        for k, picture in enumerate(pictures):
            if not example.annotations.is_crowd[k]:
                category = int(example.annotations.category_id[k])
                found.append((max((iou(m, picture) for m in mine), default=0.0), category, int(picture.sum())))
    return found


def test_series_are_layers_then_unions():
    assert [s.name for s in series_of(LAYERS)] == ["a-1", "a-2", "grid-2", "a-*", "all"]
    one = (Layer("fh-1", "fh", {}), Layer("fh-2", "fh", {}), Layer("gt", "gt", {}))
    assert [s.name for s in series_of(one)] == ["fh-1", "fh-2", "gt", "fh-*"]
    assert series_of(one)[widest(one)] == Series("fh-*", "generator", (0, 1))
    assert widest((Layer("gt", "gt", {}), Layer("fh-1", "fh", {}))) == 1
    assert widest((Layer("gt", "gt", {}),)) == 0


def test_numbers_are_those_of_drawn_masks(document):
    names = {layer.name: i for i, layer in enumerate(LAYERS)}
    for row in document["series"]:
        found = best_of([names[name] for name in row["layers"]])
        assert document["instances"]["all"] == len(found)
        best = np.array([f[0] for f in found])
        assert row["abo"]["value"] == pytest.approx(best.mean(), abs=1e-9)
        assert [r["value"] for r in row["recall"]] == [
            pytest.approx((best >= t - 1e-12).mean(), abs=1e-9) for t in np.arange(10, 20) / 20
        ]
        assert row["average_recall"]["value"] == pytest.approx(
            np.mean([(best >= t - 1e-12).mean() for t in np.arange(10, 20) / 20]), abs=1e-9
        )
        per_class = [np.mean([f[0] for f in found if f[1] == c]) for c in sorted({f[1] for f in found})]
        assert row["class_mean_abo"]["value"] == pytest.approx(np.mean(per_class), abs=1e-9)
        assert sum(row["best_iou_hist"]) == len(found)
        assert row["best_iou_hist"] == np.histogram(best + 1e-13, bins=np.arange(21) / 20)[0].tolist()
    for category in document["categories"]:
        for row, abo in zip(document["series"], category["abo"], strict=True):
            found = [f[0] for f in best_of([names[name] for name in row["layers"]]) if f[1] == category["id"]]
            assert category["instances"] == len(found)
            assert abo["value"] == (pytest.approx(np.mean(found), abs=1e-9) if found else None)


def test_a_category_without_instances_is_null_with_a_reason(document):
    (train,) = [c for c in document["categories"] if c["name"] == "train"]
    assert train["instances"] == 0
    assert train["abo"][0] == {"value": None, "why": "the category has no instance"}


def test_sizes_are_cocos():
    limits = {(32, 31): "small", (32, 32): "medium", (96, 95): "medium", (96, 96): "large"}
    for (height, width), size in limits.items():
        picture = np.zeros((100, 100), bool)
        picture[:height, :width] = True
        example, _, _ = random_record(1, side=(100, 100))
        example = type(example)(
            **{**vars(example), "annotations": to_annotations([picture], [1], [0]), "best_iou": np.zeros((3, 1))}
        )
        rows = json_of(stats_of([example]))["series"][0]["by_size"]
        assert [r["instances"] for r in rows if r["size"] == size] == [1]
        assert sum(r["instances"] for r in rows) == 1
        assert [r["abo"]["value"] is None for r in rows] == [r["size"] != size for r in rows]


def test_masks_kept_are_the_first_and_the_expectation_of_a_draw(document):
    for i, layer in enumerate(document["layers"]):
        for place, k in enumerate(BUDGETS):
            first, drawn = [], []
            for example, masks, pictures in RECORDS:
                for j, picture in enumerate(pictures):
                    if example.annotations.is_crowd[j]:
                        continue
                    ious = [iou(m, picture) for m in masks[i]]
                    first.append(max(ious[:k], default=0.0))
                    subsets = list(itertools.combinations(ious, min(k, len(ious)))) if ious else [(0.0,)]
                    drawn.append(math.fsum(max(s, default=0.0) for s in subsets) / len(subsets))
            assert layer["kept"][place]["masks"] == k
            assert layer["kept"][place]["first"]["value"] == pytest.approx(np.mean(first), abs=1e-9)
            assert layer["kept"][place]["drawn"]["value"] == pytest.approx(np.mean(drawn), abs=1e-9)
        assert layer["kept"][-1]["first"] == document["series"][i]["abo"]
        assert not layer["ranked"]


def test_masks_are_counted_as_drawn(document):
    pixels = 23 * 31
    for i, layer in enumerate(document["layers"]):
        sets = [masks[i] for _, masks, _ in RECORDS]
        areas = np.array([m.sum() for one in sets for m in one])
        union = sum(int(np.any(one, axis=0).sum()) for one in sets if one)
        assert layer["masks"] == len(areas)
        assert layer["masks_per_image"]["value"] == pytest.approx(len(areas) / len(RECORDS))
        assert layer["most_masks"]["value"] == max(len(one) for one in sets)
        assert layer["images_without"] == sum(not one for one in sets)
        assert layer["coverage"]["value"] == pytest.approx(union / pixels / len(RECORDS), abs=1e-9)
        assert layer["overlap"]["value"] == pytest.approx((areas.sum() - union) / pixels / len(RECORDS), abs=1e-9)
        assert layer["fragments"]["value"] == pytest.approx((areas < pixels / 49).mean(), abs=1e-9)
        assert layer["duplicates"]["value"] == pytest.approx(
            sum(len(one) - len({m.tobytes() for m in one}) for one in sets) / len(areas), abs=1e-9
        )
        octaves = [sum((areas <= pixels / 2**k) & (areas > pixels / 2 ** (k + 1))) for k in range(24)]
        assert layer["area_hist"] == octaves
        counts = np.array([len(one) for one in sets])
        edges = [(-1, 0), (0, 1), (1, 2), (2, 4), (4, 8), (8, 16)]
        assert layer["masks_hist"][:6] == [int(((counts > a) & (counts <= b)).sum()) for a, b in edges]
        assert sum(layer["masks_hist"]) == sum(layer["coverage_hist"]) == len(RECORDS)


def partition(seed, height=40, width=56):
    """A picture cut into vertical and horizontal strips, and disjoint objects that follow some of the cuts roughly."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(4, width - 4), 5, replace=False))
    labels = np.digitize(np.arange(width), cuts)[None, :].repeat(height, axis=0) * 2 + (np.arange(height) > 17)[:, None]
    masks = encode_label_map(np.unique(labels, return_inverse=True)[1].reshape(height, width).astype(np.int32))
    drawn = [rle.decode_mask(c, height, width) for c in masks.counts]
    objects, taken = [], np.zeros((height, width), bool)
    for mask in drawn[:6]:
        moved = np.roll(mask, tuple(rng.integers(-3, 4, 2)), (0, 1)) & ~taken
        if moved.any():
            objects.append(moved)
            taken |= moved
    return masks, to_annotations(objects, [1] * len(objects), [0] * len(objects))


def test_recall_is_that_of_cocos_evaluator_where_definitions_coincide():
    """Masks that do not overlap, objects that do not overlap, thresholds above .50: then every match is one to one."""
    height, width = 40, 56
    layer = Layer("strips", "strips", {})
    examples, truth, found = [], [], []
    for seed in range(60):
        masks, annotations = partition(seed, height, width)
        example, _, _ = random_record(seed, layers=1, side=(height, width))
        examples.append(
            type(example)(
                **{
                    **vars(example),
                    "masks": (masks,),
                    "annotations": annotations,
                    "best_iou": np.zeros((1, len(annotations))),
                }
            )
        )
        for counts, area in zip(annotations.counts, annotations.area, strict=True):
            size = {"size": [height, width], "counts": counts.decode()}
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": seed,
                    "category_id": 1,
                    "segmentation": size,
                    "area": float(area),
                    "iscrowd": 0,
                    "bbox": [0, 0, 1, 1],
                }
            )
        for counts in masks.counts:
            size = {"size": [height, width], "counts": counts.decode()}
            found.append({"image_id": seed, "category_id": 1, "segmentation": size, "score": 1.0})
    images = [{"id": seed, "height": height, "width": width} for seed in range(60)]
    coco = COCO({"images": images, "annotations": truth, "categories": [{"id": 1, "name": "object"}]})
    evaluator = COCOeval_faster(coco, coco.loadRes(found), "segm", print_function=lambda *_: None)
    evaluator.params.useCats = 0
    evaluator.params.maxDets = [1, 10, 1000]
    evaluator.evaluate()
    evaluator.accumulate()
    theirs = np.asarray(evaluator.eval["recall"])[:, 0, 0, -1]  # [thresholds], all areas, most detections
    document = json_of(stats_of(examples, (layer,)), (layer,))
    ours = [r["value"] for r in document["series"][0]["recall"]]
    assert ours[1:] == pytest.approx(theirs[1:].tolist(), abs=1e-9)
    assert 0.1 < ours[1] < 0.99
    assert document["series"][0]["average_recall"]["value"] == pytest.approx(theirs.mean(), abs=0.02)


@settings(max_examples=60)
@given(st.lists(st.integers(0, len(RECORDS) - 1), max_size=12, unique=True), st.integers(0, 12))
def test_parts_merge_to_the_whole(chosen, cut):
    examples = [RECORDS[i][0] for i in chosen]
    whole = stats_of(examples)
    parts = stats_of(examples[:cut]) + stats_of(examples[cut:])
    assert json.dumps(parts.to_json(), sort_keys=True) == json.dumps(whole.to_json(), sort_keys=True)
    backwards = stats_of(examples[cut:]) + stats_of(examples[:cut])
    assert backwards.to_json() == whole.to_json()
    assert ReportStats.from_json(json.loads(json.dumps(whole.to_json()))).to_json() == whole.to_json()


def test_bootstrap_weights_are_poisson_and_of_the_id_alone():
    keys = np.array([image_key(str(i)) for i in range(4000)])
    drawn = weights(keys)
    assert drawn.shape == (4000, REPLICATES)
    assert abs(drawn.mean() - 1) < 0.01
    assert abs(drawn.var() - 1) < 0.02
    assert abs((drawn == 0).mean() - math.exp(-1)) < 0.01
    np.testing.assert_array_equal(weights(keys[7:9]), drawn[7:9])
    correlation = np.corrcoef(drawn[:, :20].T)
    assert np.abs(correlation - np.eye(20)).max() < 0.08


def test_the_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, 800)
    sums = np.array([rng.beta(2, 3, n).sum() for n in counts])
    drawn = weights(np.array([image_key(f"image {i}") for i in range(800)]))
    units = np.rint(sums * 1e6).astype(int)
    low, high = interval((units @ drawn).tolist(), (counts @ drawn).tolist(), 1e6)
    picks = rng.integers(0, 800, (4000, 800))
    plain = np.percentile(sums[picks].sum(axis=1) / counts[picks].sum(axis=1), [2.5, 97.5])
    width = plain[1] - plain[0]
    assert [low, high] == pytest.approx(plain.tolist(), abs=0.25 * width)
    assert low < sums.sum() / counts.sum() < high


def test_ranked_layers_are_told_by_their_scores():
    example, masks, _ = random_record(5)
    ranked = MaskSet(
        example.masks[0].counts, example.masks[0].area, np.linspace(1, 0.5, len(masks[0]), dtype=np.float32)
    )
    overlaps = measure((ranked,), LAYERS[:1], series_of(LAYERS[:1]), example.annotations, 23, 31).overlaps
    assert overlaps.layers[0].ranked == 1


def test_no_images_and_no_truth_are_null_with_reasons():
    empty = json_of(stats_of([]))
    assert empty["verdict"] == "bad"
    assert empty["series"][0]["abo"] == {"value": None, "why": "there is no ground-truth instance that is not a crowd"}
    assert empty["layers"][0]["coverage"] == {"value": None, "why": "there are no images"}
    assert empty["examples"]["worst"] == []
    assert all(own["images"] == [] for own in empty["examples"]["by_layer"])
    assert empty["ranking"]["train"] == []
    bare = json_of(stats_of([random_record(i, truth=False)[0] for i in range(5)]))
    assert bare["series"][0]["interval"]["value"] is None
    assert bare["layers"][0]["masks_per_image"]["value"] is not None
    one = next(e for e, _, _ in RECORDS if (~e.annotations.is_crowd).any())
    assert json_of(stats_of([one]))["series"][0]["interval"] == {
        "value": None,
        "why": "it takes more than one annotated image",
    }


def test_examples_are_the_worst_the_best_and_the_middle_of_the_best_layer(document):
    winner = document["ranking"]["layers"][0]["name"]
    assert document["examples"]["layer"] == winner
    index = [layer.name for layer in LAYERS].index(winner)
    scores = []
    for example, masks, pictures in RECORDS:
        own = [
            max((iou(m, p) for m in masks[index]), default=0.0)
            for k, p in enumerate(pictures)
            if not example.annotations.is_crowd[k]
        ]
        if own:
            scores.append(float(np.mean(own)))
    values = sorted(scores)
    worst = [e["mean_best_iou"]["value"] for e in document["examples"]["worst"]]
    best = [e["mean_best_iou"]["value"] for e in document["examples"]["best"]]
    middle = [e["mean_best_iou"]["value"] for e in document["examples"]["median"]]
    assert worst == pytest.approx(values[:6], abs=1e-9)
    assert best == pytest.approx(values[::-1][:3], abs=1e-9)
    assert min(middle) <= np.median(values) <= max(middle)
    shown = document["examples"]["by_layer"]
    assert [own["layer"] for own in shown] == [layer.name for layer in LAYERS]
    assert len({tuple(e["id"] for e in own["images"]) for own in shown}) == 1
    fits = [e["mean_best_iou"]["value"] for e in shown[index]["images"]]
    assert fits == sorted(fits)


def lone_object(seed: int, exact: bool, copies: int):
    """An image of one object; of its masks one is the object (or nine tenths of it), the others are single pixels."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((40, 50), bool)
    top, left = rng.integers(2, 15, 2)
    truth[top : top + 20, left : left + 20] = True
    mask = truth.copy()
    mask[top : top + 2] &= exact
    pixels = []
    for i in range(copies - 1):
        pixel = np.zeros((40, 50), bool)
        pixel[i // 50, i % 50] = True
        pixels.append(pixel)
    drawn = [mask, *pixels]
    return truth, MaskSet.unranked([rle.encode_mask(m) for m in drawn], [m.sum() for m in drawn])


def ranked_records(layers):
    """Images of one object under layers of (exact, masks)."""
    for seed in range(20):
        parts = [lone_object(seed, *layer) for layer in layers]
        example, _, _ = random_record(seed, layers=len(layers), side=(40, 50))
        fields = {"masks": tuple(masks for _, masks in parts), "annotations": to_annotations([parts[0][0]], [1], [0])}
        yield type(example)(**{**vars(example), **fields, "best_iou": np.zeros((len(layers), 1))})


def test_layers_are_ranked_at_an_equal_number_of_masks():
    """Many masks with the exact one among them have the higher ABO, and lose at 16."""
    layers = (Layer("many", "many", {}), Layer("few", "few", {}), Layer("grid-9", "grid", {}), Layer("gt", "gt", {}))
    examples = list(ranked_records([(True, 100), (False, 10), (True, 80), (True, 1)]))
    document = json_of(stats_of(examples, layers), layers, config={"dataset": "coco"})
    series = {s["name"]: s["abo"]["value"] for s in document["series"]}
    assert series["many"] == series["grid-9"] == 1.0
    assert series["few"] == pytest.approx(0.9)
    ranking = document["ranking"]
    assert [x["name"] for x in ranking["layers"]] == ["few", "grid-9", "many"]
    assert [x["name"] for x in ranking["references"]] == ["gt"]
    few, grid, many = ranking["layers"]
    # the exact mask is drawn with probability k / n; the single pixels overlap it or not
    by_budget = {b["masks"]: b["abo"]["value"] for b in many["budgets"]}
    assert list(by_budget) == [4, 8, 16, 32, "all"]
    for k, value in by_budget.items():
        chance = 1.0 if k == "all" else k / 100
        assert chance - 1e-9 <= value <= chance + 0.0025 * (1 - chance) + 1e-9
    assert few["abo"]["value"] == few["budgets"][2]["abo"]["value"]
    assert few["lead"]["value"] == pytest.approx(few["abo"]["value"] - grid["abo"]["value"], abs=1e-12)
    assert many["lead"]["value"] is None
    train = "detcon train --preset detcon_b_coco --data OUT --workdir RUN --set data.layers=few"
    assert " ".join(ranking["train"]) == train
    (check,) = [c for c in document["checks"] if c["name"] == "Better than a grid"]
    assert check["state"] == "warn"
    assert "at 16 masks per image the best grid (grid-9) has an ABO of 0.20" in check["text"]
    assert "no less than many (0.16" in check["text"]


def test_the_interval_of_a_lead_is_paired():
    """Replicates of the difference, by hand; it is narrower than those of the two layers."""
    document = json_of(stats_of([example for example, _, _ in RECORDS]))
    first, second, _ = document["ranking"]["layers"]
    places = [next(i for i, layer in enumerate(LAYERS) if layer.name == x["name"]) for x in (first, second)]
    apart, instances = np.zeros(REPLICATES), np.zeros(REPLICATES)
    for example, masks, pictures in RECORDS:
        drawn = weights(np.array([image_key(example.filename)]))[0]
        for k, picture in enumerate(pictures):
            if not example.annotations.is_crowd[k]:
                best = [max((iou(m, picture) for m in masks[i]), default=0.0) for i in places]
                apart += drawn * (best[0] - best[1])
                instances += drawn
    low, high = np.percentile(apart / instances, [2.5, 97.5])
    assert first["lead_interval"]["value"] == pytest.approx([low, high], abs=1e-9)
    width = first["interval"]["value"][1] - first["interval"]["value"][0]
    assert high - low < 2 * width


def test_objects_are_mapped_where_they_lie():
    example, _, _ = random_record(1, side=(24, 48))
    corner, middle = np.zeros((24, 48), bool), np.zeros((24, 48), bool)
    corner[:12, :24] = True
    middle[11:13, 23:25] = True
    fields = {"annotations": to_annotations([corner, middle], [1, 1], [0, 0]), "best_iou": np.zeros((3, 2))}
    share = np.array(json_of(stats_of([type(example)(**{**vars(example), **fields})]))["object_map"]["share"])
    expected = np.zeros((12, 12))
    expected[:6, :6] = 0.5
    expected[5:7, 5:7] += 0.5 * (0.5 * 0.25)
    np.testing.assert_allclose(share, expected, atol=1e-3)
    assert json_of(stats_of([random_record(1, truth=False)[0]]))["object_map"] is None


def test_repeated_pictures_are_counted_and_named():
    records = [(hashlib.sha256(b"%d" % (i % 90)).hexdigest(), f"{i:03d}") for i in range(100)]
    whole = Repeats.of(records)
    assert whole.complete
    assert Repeats.of(records[:37]) + Repeats.of(records[37:]) == whole
    copies = sorted(c.ids for c in whole.pictures.values() if c.count > 1)
    assert copies == [[f"{i:03d}", f"{i + 90:03d}"] for i in range(10)]
    examples = [type(e)(**{**vars(e), "sha256": records[i][0]}) for i, (e, _, _) in enumerate(RECORDS[:100])]
    document = json_of(stats_of(examples))
    assert (document["repeats"]["pictures"], document["repeats"]["records"]) == (10, 10)
    (check,) = [c for c in document["checks"] if c["name"] == "Repeated pictures"]
    assert check["text"] == "10 pictures are in the data set more than once, 10 records too many"


def test_repeated_pictures_of_a_large_set_are_a_sample(monkeypatch):
    monkeypatch.setattr("maskmill.pipelines.measuring.repeats.KEPT", 50)
    records = [(hashlib.sha256(b"%d" % (i % 500)).hexdigest(), f"{i:04d}") for i in range(1000)]
    parts = [Repeats.of(records[i : i + 99]) for i in range(0, 1000, 99)]
    merged = functools.reduce(operator.add, parts)
    assert merged == functools.reduce(operator.add, parts[::-1])
    assert not merged.complete
    assert sorted(merged.pictures) == sorted({sha256 for sha256, _ in records})[:50]
    assert {copies.count for copies in merged.pictures.values()} == {2}
