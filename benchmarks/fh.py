"""How fast the FH kernel is, against scikit-image and OpenCV, in one process and in CPU time.

    python -m benchmarks.fh --images DIR        photos from a folder; without it scikit-image's own few photographs
    python -m benchmarks.fh --only ratio        one part: ratio, stages, growth, ties, total or start

The contestants take turns on each photo, so that what else runs on the machine hits all alike; judge by the ratios,
never by milliseconds. Medians are over the photos. OpenCV takes part where its contrib modules are installed.
"""

import argparse
import collections
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from skimage import data
from skimage.segmentation import felzenszwalb

from maskmill.masks import felzenszwalb as fh
from maskmill.masks._fh import stages
from maskmill.schemas import example_pb2

SCALES = (500, 1000, 1500)
BUNDLED = ("astronaut", "chelsea", "coffee", "rocket", "camera", "brick", "grass", "gravel", "coins", "page", "moon")
STAGES = {
    "smooth": "smoothing",
    "join_tiles": "tiles: weigh, thin, sort, join",
    "sort_edges": "sorting nodes' edges and pairs",
    "lookup_owners": "looking up owners",
    "join_nodes": "shared pass over the picture",
    "number_components": "numbering components",
    "find_pairs": "finding pairs",
    "join_components": "all scales, with min_size",
    "paint": "painting label maps",
    "find_runs": "reading the components' runs",
    "group_runs": "grouping runs of all scales",
    "write_counts": "writing RLE of all scales",
}
GROWTH_CUTS = (16, 8, 4, 2, 1)  # per side
GROWTH_BASE = 4  # pieces of 0.75 megapixels
GROWTH_TURNS = 5


def decode(path: Path) -> np.ndarray | None:
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def photos(options: argparse.Namespace) -> Iterator[np.ndarray]:
    """Yields up to `count` photos spread over the folder, or scikit-image's own."""
    if options.images is None:
        for name in BUNDLED[: options.count]:
            image = getattr(data, name)()
            yield np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
        return
    for path in photo_paths(options):
        image = decode(path)
        if image is not None:
            yield image


def photo_paths(options: argparse.Namespace) -> list[Path]:
    paths = [p for p in sorted(options.images.rglob("*")) if p.suffix.lower() in {".jpg", ".jpeg", ".png"}]
    if not paths:
        sys.exit(f"no .jpg, .jpeg or .png under {options.images}")
    return paths[:: max(1, len(paths) // options.count)][: options.count]


def cpu_ms(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return (time.thread_time() - start) * 1e3


def three_scikit_image(image: np.ndarray) -> None:
    for scale in SCALES:
        felzenszwalb(image, scale=scale, sigma=0.8, min_size=scale)


def three_opencv(image: np.ndarray) -> None:
    for scale in SCALES:
        cv2.ximgproc.segmentation.createGraphSegmentation(0.8, scale, scale).processImage(image)


def show_ratio(options: argparse.Namespace) -> None:
    rows = collections.defaultdict(list)
    megapixels = []
    for image in photos(options):
        fh.segment(image)  # grows the buffers, as in a build's first pictures
        megapixels.append(image.shape[0] * image.shape[1] / 1e6)
        rows["ours, 3 scales"].append(cpu_ms(lambda image=image: fh.segment(image)))
        rows["3 x scikit-image"].append(cpu_ms(lambda image=image: three_scikit_image(image)))
        if hasattr(cv2, "ximgproc"):
            rows["3 x OpenCV contrib"].append(cpu_ms(lambda image=image: three_opencv(image)))
        rows["ours, 1 scale"].append(cpu_ms(lambda image=image: fh.segment(image, SCALES[:1])))
        rows["ours, 2 scales"].append(cpu_ms(lambda image=image: fh.segment(image, SCALES[:2])))
        rows["ours, 3 scales to RLE"].append(cpu_ms(lambda image=image: fh.segment_to_rle(image)))
        rows["ours, 3 scales"][-1] = (rows["ours, 3 scales"][-1] + cpu_ms(lambda image=image: fh.segment(image))) / 2
    ours = np.array(rows["ours, 3 scales"])
    print(f"{len(ours)} photos, median {np.median(megapixels):.2f} MP; the ratio's median (10th-90th percentile)")
    for name, values in rows.items():
        ratio = np.array(values) / ours
        low, high = np.percentile(ratio, [10, 90])
        each = np.median(np.array(values) / megapixels)
        spread = f"{np.median(ratio):7.2f} x ours ({low:.2f}-{high:.2f})"
        print(f"  {name:22} {np.median(values):9.1f} ms  {each:8.1f} ms/MP  {spread}")


def show_stages(options: argparse.Namespace) -> None:
    spent: collections.Counter = collections.Counter()

    def timed(name: str, stage: Callable) -> Callable:
        def run(*arguments):
            start = time.thread_time()
            result = stage(*arguments)
            spent[name] += time.thread_time() - start
            return result

        return run

    kernels = {name: getattr(stages, name) for name in STAGES}
    shares = collections.defaultdict(list)
    try:
        for name, stage in kernels.items():
            setattr(stages, name, timed(name, stage))
        for image in photos(options):
            for run in (fh.segment, fh.segment, fh.segment_to_rle):
                if run is not fh.segment_to_rle:
                    spent.clear()
                run(image)
            once = {"find_runs", "group_runs", "write_counts", "paint"}  # by one of the last two runs only
            for name in STAGES:
                each = spent[name] if name in once else spent[name] / 2
                shares[name].append(each * 1e3 / (image.shape[0] * image.shape[1] / 1e6))
    finally:
        for name, stage in kernels.items():
            setattr(stages, name, stage)
    print("stages, median ms/MP")
    for name, title in STAGES.items():
        print(f"  {title:36} {np.median(shares[name]):7.2f}")


def mosaic(images: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Photos side by side, row after row, until they fill a picture of that size."""
    tiles = [cv2.resize(image[:400, :400], (400, 400)) for image in images]
    turns = itertools.cycle(tiles)
    rows = [np.hstack([next(turns) for _ in range(-(-width // 400))]) for _ in range(-(-height // 400))]
    return np.ascontiguousarray(np.vstack(rows)[:height, :width])


def show_growth(options: argparse.Namespace) -> None:
    """The same pixels as one picture of 12 megapixels and cut into ever smaller ones: only the size differs."""
    whole = mosaic(list(photos(options)), 3000, 4000)
    megapixels = whole.shape[0] * whole.shape[1] / 1e6
    pictures = {}
    for cuts in GROWTH_CUTS:
        bands = np.array_split(whole, cuts, axis=0)
        pictures[cuts] = [np.ascontiguousarray(part) for band in bands for part in np.array_split(band, cuts, axis=1)]
    spent = collections.defaultdict(list)
    for _ in range(GROWTH_TURNS):
        for cuts, parts in pictures.items():
            for segment in (fh.segment, fh.segment_to_rle):
                segment(parts[0])  # grows the buffers, as in a build's first pictures
                spent[segment, cuts].append(cpu_ms(lambda p=parts, s=segment: [s(part) for part in p]) / megapixels)
    print(f"growth, {megapixels:g} MP of photos in pieces, medians of {GROWTH_TURNS} turns (and of each turn's ratios)")
    print("  ms/MP             to label maps       to RLE")
    for cuts in GROWTH_CUTS:
        cells = [
            f"{np.median(spent[s, cuts]):8.1f} ({np.median(np.divide(spent[s, cuts], spent[s, GROWTH_BASE])):4.2f})"
            for s in (fh.segment, fh.segment_to_rle)
        ]
        print(f"  {cuts * cuts:3} x {megapixels / cuts**2:5.2f} MP  {'   '.join(cells)}")


def show_ties(options: argparse.Namespace) -> None:
    y, x = np.mgrid[:480, :640]
    noise = np.random.default_rng(0).integers(0, 256, (480, 640))
    greys = {
        "flat": x * 0 + 90,
        "ramp across": x * 255 // 639,
        "ramp down": y * 255 // 479,
        "checkers": (x + y) % 2 * 255,
        "large checkers": (x // 8 + y // 8) % 2 * 200,
        "stripes": x // 3 % 2 * 90,
        "posterised noise": noise // 64 * 64,
        "saturated noise": np.where(noise < 200, 255, noise),
        "noise": noise,
        "disc": ((x - 320) ** 2 + (y - 240) ** 2 < 160**2) * 180,
    }
    photo = [cv2.resize(image, (640, 480), interpolation=cv2.INTER_AREA) for image in photos(options)][:12]
    base = np.median([min(cpu_ms(lambda p=p: fh.segment(p)) for _ in range(3)) for p in photo])
    print(f"pictures full of ties, 640 x 480, against photos of that size ({base:.1f} ms)")
    for name, grey in greys.items():
        image = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        each = min(cpu_ms(lambda p=image: fh.segment(p)) for _ in range(3))
        print(f"  {name:18} {each:7.1f} ms  {each / base:5.2f} x a photo")


def authors_steps(encoded: bytes) -> None:
    """Decode, one scale by scikit-image, labels as uint8, one record: what the published script does per image."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    labels = felzenszwalb(image, scale=1000, sigma=0.8, min_size=1000).astype(np.uint8)
    example = example_pb2.Example()
    example.features.feature["image/encoded"].bytes_list.value.append(encoded)
    example.features.feature["image/felzenszwalb_segmentation"].bytes_list.value.append(labels.tobytes())
    example.SerializeToString()


def show_total(options: argparse.Namespace) -> None:
    if options.images is None:
        encoded = [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in photos(options)]
    else:
        encoded = [path.read_bytes() for path in photo_paths(options) if decode(path) is not None]
    rows = collections.defaultdict(list)
    for content in encoded:
        rows["the authors' steps, 1 scale"].append(cpu_ms(lambda c=content: authors_steps(c)))
        start = time.thread_time()
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        decoded = time.thread_time()
        encoded_masks = fh.segment_to_rle(image)
        segmented = time.thread_time()
        example = example_pb2.Example()
        example.features.feature["image/encoded"].bytes_list.value.append(content)
        for counts, areas in encoded_masks:
            example.features.feature["masks/counts"].bytes_list.value.extend(counts)
            example.features.feature["masks/area"].int64_list.value.extend(areas.tolist())
        example.SerializeToString()
        done = time.thread_time()
        painted = cpu_ms(lambda i=image: fh.segment(i))
        rows["ours, 3 scales"].append((done - start) * 1e3)
        rows["  decoding"].append((decoded - start) * 1e3)
        rows["  FH to RLE"].append((segmented - decoded) * 1e3)
        rows["  record"].append((done - segmented) * 1e3)
        rows["FH to label maps instead"].append(painted)
    print(f"end to end, {len(encoded)} files, sums of CPU time per image")
    for name, values in rows.items():
        print(f"  {name:30} {np.mean(values):8.2f} ms")
    print(f"  ratio of sums {sum(rows[next(iter(rows))]) / sum(rows['ours, 3 scales']):.1f} x")


def show_start(_: argparse.Namespace) -> None:
    script = (
        "import time; start = time.perf_counter()\n"
        "from maskmill.masks.felzenszwalb import warmup\n"
        "warmup(); print(time.perf_counter() - start)"
    )
    path = os.pathsep.join(entry or "." for entry in sys.path)
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": path}
        for name in ("cold", "warm"):
            command = [sys.executable, "-c", script]
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            print(f"start, {name} cache: {float(run.stdout):.1f} s from import to ready")


PARTS = {
    "ratio": show_ratio,
    "stages": show_stages,
    "growth": show_growth,
    "ties": show_ties,
    "total": show_total,
    "start": show_start,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder searched for photos")
    parser.add_argument("--count", type=int, default=35, help="photos to use (default 35)")
    parser.add_argument("--only", choices=PARTS, help="run one part")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    warm = fh.warmup()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; kernels ready in {warm:.1f} s")
    for name, show in PARTS.items():
        if options.only in (None, name):
            show(options)


if __name__ == "__main__":
    main()
