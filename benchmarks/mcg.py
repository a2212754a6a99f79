"""Time and quality of `mcg`: seconds per picture and stage, ABO by list length beside FH and grids at equal numbers.

    python -m benchmarks.mcg --images coco/images --annotations coco/instances.json --folds MODELS/folds --limit 0

The shipped models have seen the pictures they were trained on: measure on others, or with the models of the folds that
`maskmill ranker train --out MODELS` leaves, where each picture gets those that have not seen it (`--folds`).
Times are CPU seconds of one thread, by stage; `--time-only --size 500x375` for pictures of so many pixels. Machines and
their load differ, so a fixed loop is timed before each picture, and each stage is also given as a share of what it took in
the release before, whose times were measured in units of the same loop on pictures of COCO's own sizes.
"""

import argparse
import functools
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

# Before any library starts its threads.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))

import cv2
import numpy as np

from maskmill.masks.felzenszwalb import Felzenszwalb
from maskmill.masks.grid import Grid
from maskmill.masks.mcg.generator import Mcg
from maskmill.masks.mcg.selection import select
from maskmill.masks.overlap import iou_matrix
from maskmill.pipelines.mcg_training.ranker import draw, fold_of
from maskmill.pipelines.mcg_training.ranker_samples import best_overlaps, overlaps
from maskmill.pipelines.reading.annotations import parse_annotations
from maskmill.pipelines.reading.coco import Coco
from maskmill.pipelines.reading.decode import decode_image
from maskmill.pipelines.reading.inputs import Input
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.rle import decode_mask

COUNTS = (10, 16, 100, 1000)
PUBLISHED = {
    # TPAMI 2017 data files, interpolated at 16: COCO val2014, full size, all instances; trained on BSDS500 and VOC12.
    "MCG (published)": (0.192, 0.229, 0.378, 0.528, 0.600),
    "SCG (published)": (0.189, 0.223, 0.355, 0.496, 0.534),
}


# Release 0.1.0 (commit 34ca517): CPU seconds by stage over those of `calibration_loop`, 30 COCO pictures, both timed in turns.
PREVIOUS = {
    "contours": 80.3,
    "hierarchy": 28.3,
    "regions": 1.12,
    "grouping": 5.84,
    "holes": 19.4,
    "features": 11.8,
    "ranking": 22.4,
    "selection": 2.88,
    "encoding": 0.31,
}


def calibration_loop() -> float:
    """CPU seconds of fixed work of the kinds that `mcg` does: filtering, sorting, look-ups all over an array."""
    random = np.random.default_rng(0)
    picture = random.random((480, 640), np.float32)
    places = random.integers(0, picture.size, picture.size)
    start = time.process_time()
    for _ in range(3):
        blurred = cv2.GaussianBlur(picture, (0, 0), 2)
        blurred.ravel()[places].cumsum()
        np.sort(blurred.ravel()[:100_000])
    return time.process_time() - start


class Clock:
    """CPU seconds by stage."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = {}
        self.start()

    def start(self) -> None:
        self.last = time.process_time()

    def lap(self, stage: str) -> None:
        now = time.process_time()
        self.seconds.setdefault(stage, []).append(now - self.last)
        self.last = now


def interval(values: list[np.ndarray], seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval, over pictures, of the mean over all instances."""
    sums, counts = np.array([v.sum() for v in values]), np.array([len(v) for v in values])
    chosen = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def generators(args: argparse.Namespace) -> Callable[[str], Mcg]:
    """The generator for a picture's id: one for all, or that of the fold whose models have not seen it."""
    if not args.folds:
        one = Mcg(top=max(COUNTS), contour=args.contour, ranker=args.ranker)
        return lambda key: one
    folder = Path(args.folds)
    cards = [json.loads(file.read_text()) for file in sorted(folder.glob("ranker-*.json"))]
    if not cards or len(cards) != cards[0]["folds"]:
        raise SystemExit(f"{folder} does not hold the folds' models of `maskmill ranker train`")
    made = [
        Mcg(max(COUNTS), str(folder / f"contour-{k}.npz"), str(folder / f"ranker-{k}.npz")) for k in range(len(cards))
    ]
    return lambda key: made[fold_of(cards[0]["seed"], len(made), key)]


def resized(image: np.ndarray, pixels: int) -> np.ndarray:
    """A picture with about so many pixels; 0: as it is."""
    scale = (pixels / (image.shape[0] * image.shape[1])) ** 0.5
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if pixels else image


OTHERS = {f"grid-{n}": Grid(n=n) for n in (1, 2, 4, 5, 10)}
OTHERS |= {f"fh-{s}": Felzenszwalb(scales=(s,)) for s in (500, 1000, 1500)}


def measure_picture(item: Input, generator: Mcg, args: argparse.Namespace) -> dict:
    """Seconds by stage of one picture, and unless `--time-only` the best overlaps of its instances."""
    cv2.setNumThreads(1)
    clock = Clock()
    image = decode_image(item.location.read()).image
    height, width = image.shape[:2]
    annotations, _ = parse_annotations(item.annotations, height, width, drop_bad=True)
    record = ImageRecord(item.id, image, annotations)
    _compile()
    loop = calibration_loop()
    clock.start()
    if args.time_only:
        pixels = int(np.prod([int(side) for side in args.size.split("x")])) if args.size else 0
        timed = Mcg(16, generator.contour, generator.ranker)
        timed(ImageRecord(item.id, resized(image, pixels)), clock.lap)
        return {"seconds": clock.seconds, "loop": loop}
    proposals, score = generator.propose(image, clock.lap)
    select(proposals.candidates.members, proposals.regions.area, score, 16)
    clock.lap("selection")
    pairs = zip(annotations.counts, annotations.is_crowd, strict=True)
    singles = tuple(counts for counts, crowd in pairs if not crowd)
    masks = [decode_mask(counts, height, width) for counts in singles]
    found: dict = {"seconds": clock.seconds, "loop": loop, "pixels": np.array([m.sum() for m in masks])}
    if masks:
        iou = overlaps(proposals, masks)
        order = select(proposals.candidates.members, proposals.regions.area, score, max(COUNTS))
        found["best"] = best_overlaps(iou, order, COUNTS)
        for name, other in OTHERS.items():
            (made,) = other(record)
            best = iou_matrix(made.counts, singles, height, width).max(axis=0)
            found[name] = (len(made), best, best_overlaps(iou, order, (len(made),))[:, 0])
    return found


@functools.lru_cache(maxsize=1)
def _compile() -> None:
    """The kernels of this process, before anything is timed."""
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Mcg(16)(ImageRecord("", picture))


def measure(args: argparse.Namespace) -> dict:
    """Runs everything over the pictures; a dict of tables."""
    items = [i for i in Coco(args.images, args.annotations).list_inputs() if isinstance(i, Input) and i.annotations]
    items = sorted(items, key=lambda item: draw(args.seed, "benchmark", item.id))[: args.limit or None]
    generator_of = generators(args)
    work = [(item, generator_of(item.id), args) for item in items]
    if args.workers > 1:
        with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
            found = pool.starmap(measure_picture, work, chunksize=4)
    else:
        found = [measure_picture(*one) for one in work]
    seconds = {stage: [f["seconds"][stage][0] for f in found] for stage in found[0]["seconds"]}
    whole = np.sum(list(seconds.values()), axis=0)
    times = {
        "seconds": {stage: float(np.mean(values)) for stage, values in seconds.items()},
        "seconds_whole": {"mean": float(whole.mean()), "largest": float(whole.max()), "pictures": len(whole)},
        "loop_seconds": float(np.mean([f["loop"] for f in found])),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if args.time_only:
        return times
    found = [f for f in found if "best" in f]
    best = [f["best"] for f in found]
    columns = [*(str(n) for n in COUNTS), "pool"]
    whole_best, pixels = np.concatenate(best), np.concatenate([f["pixels"] for f in found])
    sizes = np.digitize(pixels, (32**2, 96**2))
    curve = {
        name: {
            "abo": float(np.concatenate([b[:, k] for b in best]).mean()),
            "interval": interval([b[:, k] for b in best]),
        }
        for k, name in enumerate(columns)
    }
    return {
        "pictures": len(best),
        "instances": sum(map(len, best)),
        **times,
        "curve": curve,
        "by_size": {
            name: {"instances": int((sizes == k).sum()), "abo": whole_best[sizes == k].mean(axis=0).tolist()}
            for k, name in enumerate(("small", "medium", "large"))
            if (sizes == k).any()
        },
        "equal": {
            name: {
                "masks": float(np.mean([f[name][0] for f in found])),
                "abo": float(np.concatenate([f[name][1] for f in found]).mean()),
                "interval": interval([f[name][1] for f in found]),
                "mcg": float(np.concatenate([f[name][2] for f in found]).mean()),
                "mcg_interval": interval([f[name][2] for f in found]),
                "gain_interval": interval([f[name][2] - f[name][1] for f in found]),
            }
            for name in OTHERS
        },
        "published": PUBLISHED,
    }


def tables(result: dict) -> str:
    """The result as Markdown."""
    whole = result["seconds_whole"]
    loop, before = result["loop_seconds"], dict.fromkeys(result["seconds"], 0.0) | PREVIOUS
    lines = ["| stage | CPU s / picture | 0.1.0, on this machine | share |", "|---|---|---|---|"]
    rows = [*result["seconds"].items(), (f"**all** (largest {whole['largest']:.3f})", whole["mean"])]
    for stage, seconds in rows:
        then = loop * before.get(stage, sum(PREVIOUS.values()))
        lines += [f"| {stage} | {seconds:.3f} | {then:.3f} | {seconds / then if then else np.nan:.2f} |"]
    lines += ["", f"{whole['pictures']} pictures; the calibration loop took {1e3 * loop:.1f} ms of CPU"]
    if "curve" not in result:
        return "\n".join([*lines, f"peak memory of this process, Beam included: {result['peak_memory_mb']:.0f} MB"])
    lines += [
        "",
        f"{result['pictures']} pictures, {result['instances']} instances; mean best overlap, 95 % interval",
        "",
    ]
    lines += ["| | @10 | @16 | @100 | @1000 | pool |", "|---|---|---|---|---|---|"]
    cells = [f"{c['abo']:.3f} ({c['interval'][0]:.3f}-{c['interval'][1]:.3f})" for c in result["curve"].values()]
    lines += ["| mcg | " + " | ".join(cells) + " |"]
    lines += [f"| {name} | " + " | ".join(f"{v:.3f}" for v in row) + " |" for name, row in result["published"].items()]
    for name, e in result["by_size"].items():
        lines += [f"| {name} ({e['instances']}) | " + " | ".join(f"{v:.3f}" for v in e["abo"]) + " |"]
    lines += ["", "| other | masks | ABO | mcg at the same number | gain, 95 % |", "|---|---|---|---|---|"]
    for name, e in result["equal"].items():
        own = f"{e['abo']:.3f} ({e['interval'][0]:.3f}-{e['interval'][1]:.3f})"
        mcg = f"{e['mcg']:.3f} ({e['mcg_interval'][0]:.3f}-{e['mcg_interval'][1]:.3f})"
        gain = f"{e['gain_interval'][0]:+.3f} to {e['gain_interval'][1]:+.3f}"
        lines += [f"| {name} | {e['masks']:.1f} | {own} | {mcg} | {gain} |"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--annotations", required=True)
    parser.add_argument("--limit", type=int, default=50, help="pictures, a seeded choice; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contour", default="default")
    parser.add_argument("--ranker", default="default")
    parser.add_argument(
        "--folds", default="", help="folder of models per fold, see above; instead of --contour, --ranker"
    )
    parser.add_argument("--size", default="", help="WIDTHxHEIGHT: with --time-only, on pictures of so many pixels")
    parser.add_argument("--time-only", action="store_true", help="no overlaps, no other generators")
    parser.add_argument("--workers", type=int, default=1, help="processes; times are right only while cores are free")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args)
    print(json.dumps(result, indent=1) if args.json else tables(result))


if __name__ == "__main__":
    main()
