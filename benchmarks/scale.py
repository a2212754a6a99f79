"""What a build costs its driver, and its workers' folding, at a million, ten million and a hundred million images.

    python -m benchmarks.scale [--images 1000000 10000000 100000000] [--scratch FOLDER]

No picture is read or built. Names are made up and planned by the real planner, up to ten million of them (`--plan-up-to`; a
hundred million take as much memory and ten times as long); of more the plan's index is drawn. What building leaves is drawn:
the sidecars of one piece of parts, which the real code joins and folds, and from that piece the folds and commits of all
others, with the ids that were planned. Then the real end of a build checks every id sum, adds up, and writes ledger, table,
report and manifest; without the report's thumbnails, for which there are no pictures. Every stage is a process of its own.

`fold` is what one worker does for a piece of about 65,536 images, in CPU seconds; a build has as many as there are pieces.
`plan` and `finish` are the driver's, in CPU seconds, with the largest memory of its process, MB.

Exit code 1 when the driver needs more than `MEMORY_MB`, or a stage grows more than `GROWTH` times faster than the images.
"""

import argparse
import dataclasses
import gzip
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

from benchmarks.planner import ROOT, synthetic_tree
from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.driver.finish import finish_build
from maskmill.pipelines.folding.fold import Subject
from maskmill.pipelines.folding.pieces import fold_path, fold_piece, is_one_table, pieces_of, rows_name
from maskmill.pipelines.measuring.overlap_stats import OverlapStats
from maskmill.pipelines.parts.assemble import assemble_shard, shard_sidecar_path
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.part import Sidecar, part_path, sidecar_bytes, sidecar_path
from maskmill.pipelines.parts.part_index import PartIndex, PartTask
from maskmill.pipelines.parts.plan import (
    IMAGES_PER_PART,
    Plan,
    default_num_shards,
    load_plan,
    make_plan,
    read_part,
    save_plan,
    split_evenly,
)
from maskmill.pipelines.reading import folder as folder_source
from maskmill.pipelines.report import write as report
from maskmill.schemas import storage
from maskmill.schemas.manifest import Shard, shard_name
from maskmill.schemas.stats import IOU_UNIT

MEMORY_MB = 2000
GROWTH = 1.3
MASKS = ("fh(scales=(500, 1000, 1500))",)
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # sha256 of no bytes


def plan(out: str, images: int) -> dict[str, float]:
    """Plans a folder of made-up names."""
    with mock.patch.object(folder_source, "list_tree", return_value=synthetic_tree(images)):
        planned = make_plan(BuildConfig("folder", ROOT, MASKS), out)
    start = time.process_time()
    assert load_plan(out) == planned
    return {"load": time.process_time() - start, "shards": planned.num_shards, "parts": planned.num_parts}


def draw_plan(out: str, images: int) -> dict[str, float]:
    """A plan as `plan` would make it, with the lines of its first piece only: the others' parts have sizes and no place."""
    shards = default_num_shards(images)
    config = BuildConfig("folder", ROOT, MASKS)
    whole = dataclasses.replace(config, num_shards=shards)
    dealt = split_evenly(images, shards)
    first = pieces_of(SimpleNamespace(inputs=images, num_shards=shards))[0]  # type: ignore[arg-type]
    count = sum(len(dealt[shard]) for shard in first)
    with mock.patch.object(folder_source, "list_tree", return_value=synthetic_tree(count)):
        real = make_plan(dataclasses.replace(config, num_shards=len(first)), out)
    parts = real.parts.to_json()
    for own in dealt[len(first) :]:
        pieces = split_evenly(len(own), max(1, math.ceil(len(own) / IMAGES_PER_PART)))
        parts.append([[0, 4000, len(piece)] for piece in pieces])
    ids = [*real.ids, *np.random.default_rng(0).integers(0, 1 << 63, shards - len(first)).tolist()]
    made = dataclasses.replace(
        real, config=whole, requested=config, inputs=images, parts=PartIndex(parts, real.digest), ids=tuple(ids)
    )
    del parts
    save_plan(out, made)
    start = time.process_time()
    assert load_plan(out) == made
    return {"load": time.process_time() - start, "shards": made.num_shards, "parts": made.num_parts}


def draw_sidecar(out: str, made: Plan, task: PartTask, subject: Subject) -> Sidecar:
    """A sidecar as a part of photographs would leave it."""
    rng = np.random.default_rng([task.shard, task.part])
    layers, series = len(subject.layers), len(subject.series)
    rows = []
    for item in read_part(out, task):
        height, width, instances = (int(n) for n in rng.integers((300, 300, 0), (500, 640, 12)))
        masks = rng.integers(5, 60, layers).tolist()
        units = rng.integers(0, IOU_UNIT * instances + 1, series).tolist()
        rows.append(
            {
                "id": item.id,
                "source_id": "",
                "label": int(rng.integers(1000)),
                "synset": "",
                "height": height,
                "width": width,
                "stored_bytes": int(rng.integers(50_000, 200_000)),
                "record_bytes": int(rng.integers(60_000, 220_000)),
                "reencoded": "",
                "instances": instances,
                "crowds": 0,
                "dropped_annotations": 0,
                "masks": masks,
                "covered_px": [height * width] * layers,
                "iou_units": units,
                "first_units": units[:layers],
                "drawn_units": units[:layers],
                "sha256": rng.bytes(32).hex(),
                "ms": {name: round(float(rng.exponential(5)), 3) for name in subject.stages},
            }
        )
    overlaps = OverlapStats.zero(layers, series)
    numbers = (task.shard, task.part, made.digest, len(rows), len(rows), 0, _EMPTY, "00000000")
    return Sidecar(*numbers, [], rows, overlaps, 1.0)


def fold(out: str) -> dict[str, float]:
    """Joins and folds the first piece, from drawn sidecars; returns CPU seconds of joining and of folding."""
    made = load_plan(out)
    assert made is not None
    subject = Subject.of(made)
    joined = 0.0
    for shard in pieces_of(made)[0]:
        for task in made.parts[shard]:
            storage.write_bytes(sidecar_path(out, task.name), sidecar_bytes(draw_sidecar(out, made, task, subject)))
            storage.write_bytes(part_path(out, task), b"")
        start = time.process_time()
        assert assemble_shard(out, made, shard) is not None
        joined += time.process_time() - start
    start = time.process_time()
    assert fold_piece(out, made, 0) is not None
    return {
        "join": joined,
        "fold": time.process_time() - start,
        "piece": int(made.parts.images()[pieces_of(made)[0]].sum()),
    }


def copy(out: str) -> dict[str, float]:
    """Folds and commits of all other pieces, as copies of the first with the planned ids."""
    made = load_plan(out)
    assert made is not None
    first = json.loads(gzip.decompress(Path(fold_path(out, made, 0)).read_bytes()))
    rows = Path(out, rows_name(made, 0))
    images = made.parts.images().tolist()
    for index, shards in enumerate(pieces_of(made)):
        if not index:
            continue
        count = sum(images[shard] for shard in shards)
        first["totals"]["written"] = first["stats"]["sums"]["images"] = count
        first["ids"] = [[images[shard], made.ids[shard]] for shard in shards]
        first |= {"first": shards.start, "shards": [_EMPTY] * len(shards)}
        first["rows"] = [rows_name(made, index), *first["rows"][1:]]
        os.link(rows, Path(out, first["rows"][0]))
        Path(fold_path(out, made, index)).write_bytes(gzip.compress(json.dumps(first).encode(), 1))
        for shard in shards:
            name = shard_name(made.config.name, made.config.split, shard, made.num_shards)
            Path(out, name).touch()
            own = dataclasses.asdict(Shard(name, images[shard], 0, _EMPTY, "00000000"))
            fields = {**own, "plan_digest": made.digest, "packed": True}
            Path(shard_sidecar_path(out, made, shard)).write_text(json.dumps(fields))
    return {}


def finish(out: str) -> dict[str, float]:
    """Ends the build."""
    made = load_plan(out)
    assert made is not None
    with (
        mock.patch.object(report, "draw_thumbnails", return_value={}),
        mock.patch.object(report, "find_agreement", return_value=None),
    ):
        manifest = finish_build(out, made)
    assert manifest.counts["written"] == manifest.counts["inputs"] == made.inputs == manifest.num_records
    return {"pieces": len(pieces_of(made)), "files": len(ImagesTable(out).files), "single": is_one_table(made)}


STAGES = {"plan": plan, "draw": draw_plan, "fold": fold, "copy": copy, "finish": finish}


def _stage(name: str, *args: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", "--stage", name, *args]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the stage {name} {' '.join(args)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Prints a line per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10**6, 10**7, 10**8], metavar="N")
    parser.add_argument(
        "--plan-up-to",
        type=int,
        default=10_000_000,
        metavar="N",
        help="larger sizes are not planned, their plan is drawn",
    )
    parser.add_argument("--scratch", help="folder with room for 40 bytes an image, and 160 while planning")
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        name, out, *numbers = args.stage
        start = time.process_time(), time.perf_counter()
        found = STAGES[name](out, *map(int, numbers))  # type: ignore[operator]
        found |= {"cpu": time.process_time() - start[0], "wall": time.perf_counter() - start[1]}
        found |= {"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}
        print(json.dumps(found))
        return 0
    print(f"{'images':>11} {'shards':>8} {'parts':>8} {'pieces':>7} {'plan s':>8} {'MB':>6} {'load s':>7} "
          f"{'join s':>7} {'fold s':>7} {'MB':>6} {'finish s':>9} {'MB':>6}")  # fmt: skip
    spent: dict[str, list[float]] = {"plan": [], "finish": []}
    most = 0.0
    for images in args.images:
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            out = str(Path(scratch, "out"))
            is_planned = images <= args.plan_up_to
            planned = _stage("plan" if is_planned else "draw", out, str(images))
            folded = _stage("fold", out)
            _stage("copy", out)
            finished = _stage("finish", out)
            shutil.rmtree(out)
        print(
            f"{images:>11,} {planned['shards']:>8,} {planned['parts']:>8,} {finished['pieces']:>7,} "
            + (f"{planned['cpu']:>8.1f} {planned['mb']:>6.0f} " if is_planned else f"{'-':>8} {'-':>6} ")
            + f"{planned['load']:>7.2f} {folded['join']:>7.2f} {folded['fold']:>7.2f} {folded['mb']:>6.0f} "
            f"{finished['cpu']:>9.1f} {finished['mb']:>6.0f}",
            flush=True,
        )
        spent["plan"] += [planned["cpu"] / images] if is_planned else []
        spent["finish"].append(finished["cpu"] / images)
        most = max(most, planned["mb"] if is_planned else 0, finished["mb"])
    growth = max((own[-1] / own[0] for own in spent.values() if own), default=1.0)
    print(
        f"largest driver {most:.0f} MB; the dearest stage costs {growth:.2f} times as much an image at the largest size"
    )
    return 0 if most <= MEMORY_MB and growth <= GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
