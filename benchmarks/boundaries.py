"""Boundaries of `mcg` against people's on BSDS500: precision, recall, ODS and OIS.

    python -m benchmarks.boundaries --images bsds500/images/val --truth bsds500/groundTruth/val

The contour model has learnt from COCO's polygons and has not seen these photographs. Two maps are measured: the ultrametric
contour map of the combined tree (each boundary between leaf regions with the level at which it vanishes), and the mean of
the contour maps at all scales, thinned by non-maximum suppression along the watershed of the finest.

After Martin, Fowlkes, Malik, "Learning to detect natural image boundaries", TPAMI 2004, section 4: at each threshold the map
is thinned, and its pixels are matched one to one with those of each person, at most `--tolerance` of the diagonal apart. A
pixel of the map is right if it matches anybody's; recall counts every person's pixels. The matching has the largest number
of pairs (Hopcroft and Karp), where the authors' program has the least total distance: counts differ little.
"""

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path

# Before any library starts its threads.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))

import cv2
import numpy as np
from scipy.io import loadmat
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from skimage.morphology import thin

from maskmill.masks.mcg.contours import learned_contours, shrink
from maskmill.masks.mcg.generator import Mcg
from maskmill.masks.mcg.hierarchy import Hierarchy, build_hierarchy
from maskmill.masks.mcg.proposals import STANDARD
from maskmill.pipelines.reading.decode import decode_image

TOLERANCE = 0.0075  # of the diagonal
MAPS = ("ucm", "contour")
PUBLISHED = {"Pb": 0.67, "gPb-UCM": 0.73, "SE": 0.75, "MCG-UCM": 0.75, "HED": 0.78, "human": 0.80}


def match(found: np.ndarray, truth: np.ndarray, radius: float) -> tuple[np.ndarray, int]:
    """Pairs pixels of two boundary maps bool[h, w] one to one, at most `radius` apart, as many as can be.

    Returns:
        matched pixels of `found`, bool[h, w], and how many of `truth` are matched, which is as many.
    """
    height, width = found.shape
    reach = int(radius)
    number = np.full((height + 2 * reach, width + 2 * reach), -1, np.int64)
    inner = number[reach : reach + height, reach : reach + width]
    inner[truth] = np.arange(truth.sum())
    ys, xs = np.nonzero(found)
    rows, columns = [], []
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx <= radius * radius:
                other = number[ys + dy + reach, xs + dx + reach]
                near = np.flatnonzero(other >= 0)
                rows.append(near)
                columns.append(other[near])
    row, column = np.concatenate(rows), np.concatenate(columns)
    if not len(row):
        return np.zeros_like(found), 0
    graph = csr_array((np.ones(len(row), bool), (row, column)), shape=(len(ys), int(truth.sum())))
    partner = maximum_bipartite_matching(graph, perm_type="column")
    out = np.zeros_like(found)
    out[ys[partner >= 0], xs[partner >= 0]] = True
    return out, int((partner >= 0).sum())


def ultrametric(hierarchy: Hierarchy) -> np.ndarray:
    """The level of the boundary that runs to the right of or below each pixel, the higher of two; float32[h, w]."""
    labels = hierarchy.labels
    leaves = int(labels.max()) + 1
    keys = hierarchy.edges[:, 0].astype(np.int64) * leaves + hierarchy.edges[:, 1]  # sorted
    out = np.zeros(labels.shape, np.float32)
    for here, there, view in (
        (labels[:, :-1], labels[:, 1:], out[:, :-1]),
        (labels[:-1], labels[1:], out[:-1]),
    ):
        apart = here != there
        low, high = np.minimum(here, there)[apart], np.maximum(here, there)[apart]
        level = hierarchy.saliency[np.searchsorted(keys, low.astype(np.int64) * leaves + high)]
        view[apart] = np.maximum(view[apart], level)
    return out


def boundary_maps(image: np.ndarray, scales: tuple[float, ...]) -> dict[str, np.ndarray]:
    """The maps of a picture uint8[h, w, 3], float32[h, w] each."""
    model = Mcg(16).contour_model
    assert model is not None
    height, width = image.shape[:2]
    contours = [learned_contours(shrink(image, scale), model.trees) for scale in scales]
    # A scale above 1 is measured in the picture's own frame like the others: the finest map's frame is the tree's.
    contours = [
        c if s <= 1 else cv2.resize(c, (width, height), interpolation=cv2.INTER_AREA)
        for s, c in zip(scales, contours, strict=True)
    ]
    level = ultrametric(build_hierarchy(contours, STANDARD.max_leaves))
    mean = np.mean([cv2.resize(c, (width, height), interpolation=cv2.INTER_LINEAR) for c in contours], axis=0)
    return {"ucm": level, "contour": np.where(level > 0, mean, 0)}


def people(path: Path) -> list[np.ndarray]:
    """The boundaries that each person drew, bool[h, w]."""
    drawn = loadmat(path)["groundTruth"]
    return [drawn[0, j]["Boundaries"][0, 0].astype(bool) for j in range(drawn.shape[1])]


def count_picture(image_file: Path, truth_file: Path, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Counts per map and threshold: matched and all pixels of the map, matched and all of people's; int64[thresholds, 4]."""
    cv2.setNumThreads(1)
    image = decode_image(image_file.read_bytes()).image
    truths = people(truth_file)
    radius = args.tolerance * float(np.hypot(*image.shape[:2]))
    out = {}
    for name, strength in boundary_maps(image, args.scales).items():
        counts = np.zeros((args.thresholds, 4), np.int64)
        for k, threshold in enumerate(thresholds(args.thresholds)):
            found = thin(strength >= threshold)
            right = np.zeros_like(found)
            for truth in truths:
                matched, recalled = match(found, truth, radius)
                right |= matched
                counts[k, 2:] += recalled, int(truth.sum())
            counts[k, :2] = right.sum(), found.sum()
        out[name] = counts
    return out


def thresholds(count: int) -> np.ndarray:
    """Evenly spaced, without 0 and 1."""
    return np.arange(1, count + 1) / (count + 1)


def f_measure(counts: np.ndarray) -> np.ndarray:
    """F of counts [..., 4] as in `count_picture`."""
    precision = counts[..., 0] / np.maximum(counts[..., 1], 1)
    recall = counts[..., 2] / np.maximum(counts[..., 3], 1)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def summary(counts: np.ndarray, draws: int = 1000) -> dict[str, float]:
    """ODS with its 95 % interval by bootstrap over pictures, OIS, and precision and recall there; counts [n, thresholds, 4]."""
    whole = counts.sum(axis=0)
    best = int(f_measure(whole).argmax())
    chosen = np.random.default_rng(0).integers(0, len(counts), (draws, len(counts)))
    drawn = [float(f_measure(counts[rows].sum(axis=0)).max()) for rows in chosen]
    each = counts[np.arange(len(counts)), f_measure(counts).argmax(axis=1)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "ods": float(f_measure(whole)[best]),
        "low": float(low),
        "high": float(high),
        "ois": float(f_measure(each.sum(axis=0))),
        "threshold": float(thresholds(len(whole))[best]),
        "precision": float(whole[best, 0] / whole[best, 1]),
        "recall": float(whole[best, 2] / whole[best, 3]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of .jpg")
    parser.add_argument("--truth", type=Path, required=True, help="folder of .mat with the same stems")
    parser.add_argument("--first", type=int, default=0, help="pictures left out at the beginning of the sorted list")
    parser.add_argument("--limit", type=int, default=0, help="pictures after them; 0 for all")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of the diagonal")
    parser.add_argument("--thresholds", type=int, default=9)
    parser.add_argument(
        "--scales", type=float, nargs="+", default=STANDARD.scales, help="of the contours, finest first"
    )
    parser.add_argument("--counts", type=Path, help="a file of counts: added to, so that runs over parts add up")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    files = sorted(args.images.glob("*.jpg"))[args.first :][: args.limit or None]
    work = [(file, args.truth / f"{file.stem}.mat", args) for file in files]
    start = time.process_time()
    if args.workers > 1:
        with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
            found = pool.starmap(count_picture, work, chunksize=2)
    else:
        found = [count_picture(*one) for one in work]
    seconds = time.process_time() - start
    counts = {name: [one[name].tolist() for one in found] for name in MAPS}
    if args.counts:
        before = json.loads(args.counts.read_text()) if args.counts.exists() else {name: [] for name in MAPS}
        counts = {name: before[name] + counts[name] for name in MAPS}
        args.counts.write_text(json.dumps(counts))
    print(f"{len(counts['ucm'])} photographs, scales {args.scales}, {seconds:.0f} CPU s in this process")
    print("\n| map | ODS (95 %) | OIS | precision | recall | threshold |\n|---|---|---|---|---|---|")
    for name in MAPS:
        s = summary(np.array(counts[name]))
        print(
            f"| {name} | {s['ods']:.3f} ({s['low']:.3f}-{s['high']:.3f}) | {s['ois']:.3f} | {s['precision']:.3f} "
            f"| {s['recall']:.3f} | {s['threshold']:.2f} |"
        )
    print("published, 200 test photographs:", ", ".join(f"{name} {value:.2f}" for name, value in PUBLISHED.items()))


if __name__ == "__main__":
    main()
