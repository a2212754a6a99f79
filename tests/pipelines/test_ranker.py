import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskmill.masks.mcg.contours import CONTOUR_FEATURES
from maskmill.masks.mcg.models import load_model, parse_model
from maskmill.masks.registry import parse_spec
from maskmill.pipelines.mcg_training import budget, ranker
from maskmill.pipelines.mcg_training.ranker import TrainOptions, fold_of, is_measured, list_training_inputs, train
from maskmill.schemas.errors import InputError, UsageError
from maskmill.schemas.image import ImageRecord

pytest.importorskip("lightgbm", reason="training models needs maskmill[ranker]")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures of three bright discs on a textured ground, annotated as polygons."""
    folder = tmp_path_factory.mktemp("pictures")
    images, annotations = [], []
    for number in range(1, 13):
        random = np.random.default_rng(number)
        picture = random.integers(60, 120, (90, 110, 3)).astype(np.uint8)
        for _ in range(3):
            centre, radius = random.integers((15, 15), (95, 75)), int(random.integers(7, 14))
            colour = tuple(int(c) for c in random.integers(150, 256, 3))
            angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            polygon = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            cv2.fillPoly(picture, [polygon.round().astype(np.int32)], colour)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": [np.clip(polygon, 0, (110, 90)).round(1).reshape(-1).tolist()],
                }
            )
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        images.append({"id": number, "file_name": f"{number}.png", "height": 90, "width": 110})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}
    (folder.parent / "discs.json").write_text(json.dumps(content))
    return folder, folder.parent / "discs.json"


def options(pictures, out, **change):
    given = {"folds": 2, "measured": 0.4, "block": 4, "labels": "discs", **change}
    return TrainOptions(str(pictures[0]), str(pictures[1]), str(out), **given)


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    return out, train(options(pictures, out))


def test_the_models_trained_find_the_objects_they_were_shown(pictures, trained):
    out, card = trained
    assert card["measured_on"]["abo"]["pool"] >= card["measured_on"]["abo"]["100"] >= card["measured_on"]["abo"]["10"]
    assert card["measured_on"]["abo"]["10"] > 0.6
    generator = parse_spec(f"mcg(top=8, contour={str(out / 'contour.npz')!r}, ranker={str(out / 'ranker.npz')!r})")
    (layer,) = generator.layers
    assert layer.provenance["ranker"]["labels"] == ["discs"]
    picture = cv2.imread(str(pictures[0] / "1.png"))[..., ::-1].copy()
    assert len(generator(ImageRecord("1.png", picture))[0]) == 8


def test_cards_say_what_was_trained_on_what(trained):
    out, card = trained
    saved = json.loads((out / "ranker.json").read_text())
    assert saved == card
    assert saved["images"] == 12
    assert saved["model_sha256"] == load_model(str(out / "ranker.npz"), "ranker", _features()).sha256
    assert saved["images_sha256"] == json.loads((out / "contour.json").read_text())["images_sha256"]
    assert 0 < saved["measured_on"]["images"] < 12
    (version,) = re.findall(r'^VERSION = "(.*)"$', (Path(__file__).parents[2] / "setup.py").read_text(), re.M)
    assert saved["versions"]["maskmill"] == version


def test_models_of_the_folds_stay_and_differ_from_those_of_all(trained):
    out, _ = trained
    for kind in ("contour", "ranker"):
        files = [out / f"{kind}.npz", *sorted((out / "folds").glob(f"{kind}-*.npz"))]
        assert len(files) == 3
        assert len({file.read_bytes() for file in files}) == 3
        cards = [json.loads(file.with_suffix(".json").read_text()) for file in files[1:]]
        assert [(card["fold"], card["folds"], card["seed"]) for card in cards] == [(0, 2, 0), (1, 2, 0)]


def test_pictures_are_measured_by_models_that_have_not_seen_them(pictures, trained, monkeypatch):
    """Proposals of each picture come from the models of its own fold: those fitted on the other folds."""
    out, _ = trained
    given = options(pictures, out, measured=1.0)
    seen = []
    monkeypatch.setattr(ranker, "_read_model", lambda path, kind: seen.append((kind, path)) or load_path(path, kind))
    work = str(next(out.glob("_work/*")))
    for item in list_training_inputs(given)[:3]:
        seen.clear()
        assert len(ranker.measure(item, given, work)["rows"]) == 3
        fold = fold_of(0, 2, item.id)
        assert seen == [(kind, f"{work}/{kind}-{fold}.npz") for kind in ("contour", "ranker")]


def load_path(path, kind):
    return parse_model(Path(path).read_bytes(), kind, CONTOUR_FEATURES if kind == "contour" else _features())


def _features():
    from maskmill.masks.mcg.features import CANDIDATE_FEATURES

    return CANDIDATE_FEATURES


def test_training_again_elsewhere_gives_the_same_bytes_and_here_takes_up_what_is_there(pictures, trained, tmp_path):
    out, card = trained
    assert train(options(pictures, tmp_path)) == card
    for name in ("contour.npz", "ranker.npz"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    blocks = sorted(tmp_path.glob("_work/*/*.parquet"))
    stamps = {b: b.stat().st_mtime_ns for b in blocks}
    blocks[0].unlink()
    assert train(options(pictures, tmp_path)) == card
    assert all(b.stat().st_mtime_ns == stamps[b] for b in blocks[1:])


def test_folds_and_measured_pictures_depend_on_the_id_and_seed_only(pictures):
    one, two = options(pictures, "a"), options(pictures, "b", seed=1)
    keys = [f"{k}.jpg" for k in range(2000)]
    folds = np.array([fold_of(0, 2, key) for key in keys])
    assert 0.45 < folds.mean() < 0.55
    measured = np.array([is_measured(one, key) for key in keys])
    assert 0.36 < measured.mean() < 0.44
    assert 0.45 < folds[measured].mean() < 0.55
    assert folds.tolist() != [fold_of(1, 2, key) for key in keys]
    assert measured.tolist() != [is_measured(two, key) for key in keys]


def test_too_few_pictures_are_refused(pictures):
    with pytest.raises(InputError, match=r"4 annotated pictures .* are too few"):
        list_training_inputs(options(pictures, "a", limit=4))


def test_rows_are_bounded_in_all_and_the_same_whatever_the_blocks_and_their_order(pictures, tmp_path, monkeypatch):
    """Counted: a bound far below what the pictures give, dealt out evenly, whichever block does a picture and when."""
    found = {}
    for name, change in {"free": {}, "four": {"max_rows": 1200}, "five": {"max_rows": 1200, "block": 5}}.items():
        given = options(pictures, tmp_path / name, **change)
        items = list_training_inputs(given)
        if name == "five":
            monkeypatch.setattr(ranker.beam, "Create", lambda blocks: create(blocks[::-1]))
        ids, rows, target = ranker.run_stage("contours", items, given, str(tmp_path / name), FLAGS)
        found[name] = dict(zip(("ids", "rows", "target"), (ids, rows, target), strict=True))
    assert len(found["four"]["rows"]) == 1200 < len(found["free"]["rows"])
    assert set(np.unique(found["four"]["ids"], return_counts=True)[1]) == {100}
    for column in ("ids", "rows", "target"):
        np.testing.assert_array_equal(found["four"][column], found["five"][column])
    for key in np.unique(found["free"]["ids"]):
        free, kept = (found[name]["rows"][found[name]["ids"] == key] for name in ("free", "four"))
        places = [np.flatnonzero((free == row).all(axis=1))[0] for row in kept]
        assert (np.diff(places) >= 0).all()  # of the picture's own rows, in their order


create = ranker.beam.Create
FLAGS = ["--runner=FnApiRunner", "--no_save_main_session"]


def test_rows_below_the_bound_are_left_alone():
    found = {"rows": np.arange(12.0).reshape(6, 2), "target": np.arange(6.0)}
    assert budget.thinned(found, 6, 0) is found
    fewer = budget.thinned(found, 4, 0)
    assert (fewer["rows"][:, 0] == 2 * fewer["target"]).all()
    assert fewer["target"].tolist() == sorted(set(fewer["target"].tolist()))
    assert len(fewer["target"]) == 4


def test_the_plan_says_what_training_takes_and_stays_bounded(pictures):
    small = ranker.plan(options(pictures, ""))
    given = options(pictures, "")
    assert small.pictures == 12
    assert small.measured == sum(is_measured(given, item.id) for item in list_training_inputs(given))
    assert small.contour_rows == 12 * budget.CONTOUR_ROWS
    assert small.candidate_rows == 12 * budget.CANDIDATE_ROWS
    coco = budget.budget(118_000, 23_600, 5, budget.MAX_ROWS)
    assert coco.rows_each * coco.pictures <= budget.MAX_ROWS
    assert coco.contour_rows == coco.candidate_rows == 33 * 118_000
    assert 2 * 2**30 < coco.memory_bytes < 8 * 2**30
    assert coco.worker_hours == pytest.approx(
        (budget.CONTOUR_SECONDS * 118_000 + budget.PROPOSE_SECONDS * 141_600) / 3600
    )
    assert budget.budget(2 * 118_000, 23_600, 5, budget.MAX_ROWS).memory_bytes <= coco.memory_bytes * 1.04
    text = budget.describe(coco)
    assert "118000 pictures, at most 33 rows of each" in text
    assert "core-hours" in text


def test_more_pictures_than_the_rows_reach_for_are_refused():
    with pytest.raises(
        UsageError, match=r"500 rows in all leave 5 for each of 100 pictures.* --max-rows to 800 .* 62 pi"
    ):
        budget.rows_each(100, 500)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_rows": 10}, r"max-rows must be in 500\.\.20000000, got 10"),
        ({"folds": 1}, r"folds must be in 2\.\.20, got 1"),
        ({"measured": 0.0}, "measured must be"),
        ({"measured": 1.1}, "measured must be"),
        ({"block": 0}, "block must be"),
    ],
)
def test_wrong_options_are_refused(pictures, change, message):
    with pytest.raises(UsageError, match=message):
        options(pictures, "a", **change)
