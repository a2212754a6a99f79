"""Trains the contour model and the ranker of `masks.mcg` from annotated pictures.

    sample pixels -> fit contour models -> propose, sample candidates -> fit rankers -> measure

Sampling and measuring are Beam jobs over blocks of pictures; each block commits one file, so the same command resumes.
Pictures are dealt into folds. The ranker must learn from contours as they are on pictures the contour model has not seen:
each fold's proposals come from a contour model fitted on the other folds. And each fold has a ranker fitted on the others,
so every picture can be measured with two models that have not seen it; they stay in `OUT/folds` for that.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from maskmill.masks.mcg.contours import CONTOUR_FEATURES
from maskmill.masks.mcg.features import CANDIDATE_FEATURES
from maskmill.masks.mcg.models import model_bytes, parse_model
from maskmill.masks.mcg.proposals import STANDARD, propose_image
from maskmill.masks.mcg.selection import select
from maskmill.masks.mcg.trees import TreeModel
from maskmill.pipelines.mcg_training import fit as ranker_fit
from maskmill.pipelines.mcg_training.budget import MAX_ROWS, ROW_LIMITS, Budget, budget, rows_each, thinned
from maskmill.pipelines.mcg_training.contour_samples import POSITIVE, contour_samples
from maskmill.pipelines.mcg_training.ranker_samples import best_overlaps, candidate_samples, overlaps
from maskmill.pipelines.parts.provenance import versions
from maskmill.pipelines.reading.annotations import parse_annotations
from maskmill.pipelines.reading.coco import Coco
from maskmill.pipelines.reading.decode import decode_image
from maskmill.pipelines.reading.inputs import Input
from maskmill.pipelines.reading.patience import PATIENCE_S, patiently
from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError, InputError, UsageError
from maskmill.schemas.rle import decode_mask

if TYPE_CHECKING:
    from jaxtyping import Float32, Shaped

COUNTS = (10, 16, 100, 1000)  # list lengths at which the card says the ABO
MIN_IMAGES = 6


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What to train on and how.

    Attributes:
        images, annotations: pictures and COCO instances json, as for a build.
        out: folder for contour.npz, contour.json, ranker.npz, ranker.json.
        labels: what the cards say of the labels' origin.
        seed: of folds and samples.
        limit: use only this many pictures, a seeded choice; 0 means all.
        folds: of the pictures; for each, two models are fitted that have not seen it. The saved ones are trained on all.
        measured: share of the pictures that are measured, a seeded choice, each with the models that have not seen it.
        block: pictures per work item.
        contour_only: stop after the contour model.
        max_rows: to learn from, for either model, in all; each picture gives at most its even share of them.
    """

    images: str
    annotations: str
    out: str
    labels: str = "COCO 2017 instance annotations"
    seed: int = 0
    limit: int = 0
    folds: int = 5
    measured: float = 0.2
    block: int = 16
    contour_only: bool = False
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        if not 2 <= self.folds <= 20:
            raise UsageError(f"folds must be in 2..20, got {self.folds}")
        if not 0 < self.measured <= 1:
            raise UsageError(f"measured must be a share above 0 and at most 1, got {self.measured}")
        if self.block < 1 or self.limit < 0:
            raise UsageError(f"block must be at least 1 and limit at least 0, got {self.block} and {self.limit}")
        if not ROW_LIMITS[0] <= self.max_rows <= ROW_LIMITS[1]:
            raise UsageError(f"max-rows must be in {ROW_LIMITS[0]}..{ROW_LIMITS[1]}, got {self.max_rows}")


def draw(seed: int, what: str, key: str) -> float:
    """A number in 0..1 that depends on nothing but its arguments."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{what}:{key}".encode()).digest()[:7], "big") / 2**56


def fold_of(seed: int, folds: int, key: str) -> int:
    """The fold of a picture, by id."""
    return int(draw(seed, "fold", key) * folds)


def is_measured(options: TrainOptions, key: str) -> bool:
    """Whether a picture is one of those measured."""
    return draw(options.seed, "measured", key) < options.measured


def list_training_inputs(options: TrainOptions) -> list[Input]:
    """The pictures with at least one instance, by id; a seeded choice of `limit` of them.

    Raises:
        InputError: fewer than `MIN_IMAGES`, or a fold or the measured share came out empty.
    """
    source = Coco(options.images, options.annotations)
    listed = patiently(lambda: list(source.list_inputs()), PATIENCE_S, options.images, options.annotations)
    usable = [i for i in listed if isinstance(i, Input) and any(not a.get("iscrowd") for a in i.annotations)]
    usable.sort(key=lambda item: draw(options.seed, "limit", item.id))
    chosen = sorted(usable[: options.limit or None], key=lambda item: item.id)
    folds = {fold_of(options.seed, options.folds, item.id) for item in chosen}
    measured = any(is_measured(options, item.id) for item in chosen)
    if len(chosen) < MIN_IMAGES or len(folds) < options.folds or not measured:
        raise InputError(
            f"{len(chosen)} annotated pictures in {options.annotations} are too few for {options.folds} folds "
            f"and a measured share of {options.measured:g}; give more"
        )
    return chosen


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture with its instances and crowds as bool[h, w] each."""

    image: np.ndarray
    masks: list[np.ndarray]
    crowds: list[np.ndarray]


def read_picture(item: Input) -> Picture | None:
    """Decodes a picture and its annotations; None where either is damaged (a build would list it as a failure)."""
    try:
        image = decode_image(item.location.read()).image
        height, width = image.shape[:2]
        annotations, _ = parse_annotations(item.annotations, height, width, drop_bad=True)
    except ImageError:
        return None
    drawn = [decode_mask(counts, height, width) for counts in annotations.counts]
    pairs = list(zip(drawn, annotations.is_crowd, strict=True))
    return Picture(image, [m for m, crowd in pairs if not crowd], [m for m, crowd in pairs if crowd])


@functools.lru_cache(maxsize=32)
def _read_model(path: str, kind: str) -> TreeModel:
    return parse_model(storage.read_bytes(path), kind, CONTOUR_FEATURES if kind == "contour" else CANDIDATE_FEATURES)


def _unseeing(kind: str, item: Input, options: TrainOptions, work: str) -> TreeModel:
    """The model of a kind that has not seen a picture."""
    return _read_model(storage.join(work, f"{kind}-{fold_of(options.seed, options.folds, item.id)}.npz"), kind)


def _seed(options: TrainOptions, key: str) -> int:
    return int(draw(options.seed, "samples", key) * 2**32)


def sample_contours(item: Input, options: TrainOptions, work: str) -> dict[str, np.ndarray]:
    """Rows for the contour model from one picture; no rows where it cannot be read."""
    picture = read_picture(item)
    parts = []
    if picture:
        seed = _seed(options, item.id)
        parts = [
            contour_samples(picture.image, picture.masks, picture.crowds, scale, seed) for scale in STANDARD.scales
        ]
    empty = (np.zeros((0, len(CONTOUR_FEATURES)), np.float32), np.zeros(0, np.int8))
    rows, kinds = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    return {"rows": rows, "target": (kinds == POSITIVE).astype(np.float32)}


def sample_candidates(item: Input, options: TrainOptions, work: str) -> dict[str, np.ndarray]:
    """Rows for the ranker from one picture, its contours from a model that has not seen it."""
    picture = read_picture(item)
    if not picture or not picture.masks:
        return {"rows": np.zeros((0, len(CANDIDATE_FEATURES)), np.float32), "target": np.zeros(0, np.float32)}
    proposals = propose_image(picture.image, _unseeing("contour", item, options, work))
    iou = overlaps(proposals, picture.masks)
    chosen = candidate_samples(iou, _seed(options, item.id))
    return {"rows": proposals.features[chosen], "target": iou[chosen].max(axis=1)}


def measure(item: Input, options: TrainOptions, work: str) -> dict[str, np.ndarray]:
    """Best overlap of each instance of a picture that the models have not seen, by list length and in the whole pool."""
    picture = read_picture(item)
    if not picture or not picture.masks:
        return {"rows": np.zeros((0, len(COUNTS) + 1), np.float32), "target": np.zeros(0, np.float32)}
    proposals = propose_image(picture.image, _unseeing("contour", item, options, work))
    score = _unseeing("ranker", item, options, work).predict(proposals.features)
    order = select(proposals.candidates.members, proposals.regions.area, score, max(COUNTS))
    best = best_overlaps(overlaps(proposals, picture.masks), order, COUNTS)
    return {"rows": best.astype(np.float32), "target": np.zeros(len(best), np.float32)}


STAGES = {"contours": sample_contours, "candidates": sample_candidates, "measured": measure}


@dataclasses.dataclass(frozen=True)
class Block:
    """A work item: some pictures of one stage, how many rows each may give, and the file that these go to."""

    stage: str
    number: int
    lines: tuple[bytes, ...]
    options: TrainOptions
    work: str
    rows_each: int

    @property
    def file(self) -> str:
        return storage.join(self.work, f"{self.stage}-{self.number:05d}.parquet")


def do_block(block: Block) -> int:
    """Samples one block's pictures and commits their rows; returns how many rows. A committed block is not done again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if storage.exists(block.file):
        return 0
    tables = []
    for line in block.lines:
        item = Input.from_json(line)
        found = STAGES[block.stage](item, block.options, block.work)
        if block.stage != "measured":
            found = thinned(found, block.rows_each, _seed(block.options, item.id))
        rows = found["rows"]
        tables.append(
            pa.table(
                {
                    "id": pa.array([item.id] * len(rows), pa.string()),
                    "row": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1]),
                    "target": pa.array(found["target"].astype(np.float32)),
                }
            )
        )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
    storage.write_bytes(block.file, sink.getvalue().to_pybytes())
    return sum(len(t) for t in tables)


def run_stage(
    stage: str, items: list[Input], options: TrainOptions, work: str, flags: list[str]
) -> tuple[Shaped[np.ndarray, " n"], Float32[np.ndarray, "n columns"], Float32[np.ndarray, " n"]]:
    """Runs one stage over all blocks and reads what it made.

    Returns:
        ids str[n], rows float32[n, columns], target float32[n], in the order of the pictures' ids.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from maskmill.pipelines.clusters import runners

    lines = [item.to_json() for item in items]
    size, each = options.block, rows_each(len(items), options.max_rows)
    blocks = [
        Block(stage, k, tuple(lines[k * size : (k + 1) * size]), options, work, each)
        for k in range(-(-len(lines) // size))
    ]
    try:
        with runners.make_pipeline(PipelineOptions(flags)) as pipeline:
            _ = pipeline | beam.Create(blocks) | beam.Reshuffle() | stage >> beam.Map(do_block)
    except Exception as error:  # Beam passes only the text of what went wrong on
        raise runners.cause_of(error) or error from error
    table = pa.concat_tables(pq.read_table(pa.BufferReader(storage.read_bytes(b.file))) for b in blocks)
    column = table["row"].combine_chunks()
    rows = column.values.to_numpy().reshape(-1, column.type.list_size)
    return np.array(table["id"].to_pylist()), rows, table["target"].to_numpy()


def plan(options: TrainOptions) -> Budget:
    """What `train` will take; reads the annotations, no picture.

    Raises:
        InputError, UsageError: as `train`.
    """
    items = list_training_inputs(options)
    measured = sum(is_measured(options, item.id) for item in items)
    return budget(len(items), measured, options.folds, options.max_rows, options.contour_only)


def train(options: TrainOptions, flags: list[str] | None = None) -> dict:
    """Trains and saves both models with their cards.

    Args:
        options: what to train on.
        flags: Beam's options; None runs here, in one process.

    Returns:
        The ranker's card (the contour model's where `contour_only`).

    Raises:
        InputError, UsageError: see `TrainOptions` and `list_training_inputs`.
    """
    flags = flags if flags is not None else ["--runner=FnApiRunner", "--no_save_main_session"]
    items = list_training_inputs(options)
    rows_each(len(items), options.max_rows)  # known before anything is computed
    listed = json.dumps([dataclasses.asdict(options) | {"out": ""}, versions(), [i.to_json().decode() for i in items]])
    work = storage.join(options.out, "_work", hashlib.sha256(listed.encode()).hexdigest()[:16])
    card = {
        "labels": [options.labels],
        "images": len(items),
        "images_sha256": hashlib.sha256("\n".join(i.id for i in items).encode()).hexdigest(),
        "seed": options.seed,
        "versions": versions(),
    }

    def save(folder: str, stem: str, model: TreeModel, kind: str, features: tuple[str, ...], **facts: Any) -> dict:
        data = model_bytes(model, kind, features)
        whole = {**card, **facts, "kind": kind, "model_sha256": hashlib.sha256(data).hexdigest()}
        storage.write_bytes(storage.join(folder, f"{stem}.npz"), data)
        storage.write_bytes(storage.join(folder, f"{stem}.json"), (json.dumps(whole, indent=1) + "\n").encode())
        return whole

    def fit_folds(
        kind: str,
        fit: Callable[[np.ndarray, np.ndarray], TreeModel],
        features: tuple[str, ...],
        ids: np.ndarray,
        rows: np.ndarray,
        target: np.ndarray,
    ) -> None:
        """A model per fold that has not seen it: in the work folder, which resumes, and in `OUT/folds`, which stays."""
        of = np.array([fold_of(options.seed, options.folds, key) for key in ids])
        for fold in range(options.folds):
            if not storage.exists(storage.join(work, f"{kind}-{fold}.npz")):
                model, facts = fit(rows[of != fold], target[of != fold]), {"fold": fold, "folds": options.folds}
                save(storage.join(options.out, "folds"), f"{kind}-{fold}", model, kind, features, **facts)
                save(work, f"{kind}-{fold}", model, kind, features, **facts)

    ids, rows, target = run_stage("contours", items, options, work, flags)
    final = save(
        options.out, "contour", ranker_fit.fit_contour(rows, target), "contour", CONTOUR_FEATURES, rows=len(rows)
    )
    if options.contour_only:
        return final
    fit_folds("contour", ranker_fit.fit_contour, CONTOUR_FEATURES, ids, rows, target)
    ids, rows, target = run_stage("candidates", items, options, work, flags)
    fit_folds("ranker", ranker_fit.fit_ranker, CANDIDATE_FEATURES, ids, rows, target)
    measured = [item for item in items if is_measured(options, item.id)]
    _, best, _ = run_stage("measured", measured, options, work, flags)
    names = [*(str(n) for n in COUNTS), "pool"]
    curve = {name: round(float(value), 4) for name, value in zip(names, best.mean(axis=0), strict=True)}
    facts = {
        "rows": len(rows),
        "measured_on": {"images": len(measured), "instances": len(best), "abo": curve},
        "measured_how": f"cross-validated over {options.folds} folds of the pictures: each picture with a ranker and a contour "
        "model that were not trained on it; the saved models are trained on all pictures",
    }
    return save(options.out, "ranker", ranker_fit.fit_ranker(rows, target), "ranker", CANDIDATE_FEATURES, **facts)
