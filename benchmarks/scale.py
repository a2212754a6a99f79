"""What a build costs its driver and its workers at a million, ten million and a hundred million images.

    python -m benchmarks.scale [--images 1000000 10000000 100000000] [--real-up-to N] [--scratch FOLDER] [--before COMMAND]

No picture is read or built. Names are made up, in shards of ten thousand as tars would hold them, and planned by the real code:
workers list, sort and deal them, each group of tasks a process of its own, and the driver is another. What building leaves is
drawn: the sidecars of one piece of parts, which the real code joins and folds, and from that piece the folds and commits of all
others, with the ids that were planned. Then the real end of a build checks every id sum, adds up, and writes ledger, table,
report and manifest; without the report's thumbnails, for which there are no pictures.

Above `--real-up-to` images workers do a sample of their tasks: so many lists; ranges of their true size, drawn; the pieces that
lie in those. Numbers of the others are copies, so what is copied is read by the driver as if it had been made. Seconds of
workers are then those of the sample times how many there are, and marked with ~; everything of the driver is real at every size.
An engine's own part in three jobs is not here.

CPU seconds throughout, with the largest memory of a process, MB: `driver` plans, `finish` ends the build; workers' columns are
sums over all of them, but `fold` is for one piece of about 65,536 images.

Exit code 1 when the driver needs more than `MEMORY_MB`, or its time grows more than `GROWTH` times faster than the images.
"""

import argparse
import dataclasses
import functools
import gzip
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.driver.finish import finish_build
from maskmill.pipelines.folding.fold import Subject
from maskmill.pipelines.folding.pieces import fold_path, fold_piece, is_one_table, pieces_of, rows_name
from maskmill.pipelines.measuring.overlap_stats import OverlapStats
from maskmill.pipelines.parts import partition
from maskmill.pipelines.parts.assemble import assemble_shard, shard_sidecar_path
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.part import Sidecar, part_path, sidecar_bytes, sidecar_path
from maskmill.pipelines.parts.part_index import PartTask
from maskmill.pipelines.parts.plan import Plan, check_files, load_plan, make_plan
from maskmill.pipelines.parts.plan_lines import deal, read_part, split_evenly
from maskmill.pipelines.reading.inputs import Input
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.shard_files import Facts, InShards, ShardFile, Shards
from maskmill.pipelines.report import write as report
from maskmill.schemas import storage
from maskmill.schemas.manifest import Shard, shard_name
from maskmill.schemas.stats import IOU_UNIT

ROOT = "gs://bucket/pictures"
IN_SHARD = 10_000
MEMORY_MB = 2000
GROWTH = 1.3
MASKS = ("fh(scales=(500, 1000, 1500))",)
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # sha256 of no bytes


@dataclasses.dataclass
class MadeUp(InShards):
    """A data set of names in a bucket, in shards of `IN_SHARD`."""

    count: int = 0

    def find(self) -> Shards:
        shards = -(-self.count // IN_SHARD)
        files = [ShardFile(f"{number:06d}.tar", f"{ROOT}/{number:06d}.tar") for number in range(shards)]
        return Shards(files, [], functools.partial(made_up, count=self.count))

    def conclude(self, facts: Facts) -> None:
        self.labels = facts.labels("the samples' cls")


def made_up(shard: ShardFile, count: int) -> list[Input]:
    """What is in a shard."""
    first = int(shard.name[:6]) * IN_SHARD
    return [
        Input(f"{shard.name}/{i:09d}.jpg", Location(shard.path, i % IN_SHARD * 98_304 + 512, 98_000), label=i % 1000)
        for i in range(first, min(first + IN_SHARD, count))
    ]


@dataclasses.dataclass
class Processes:
    """Workers as processes, one after the other, so that the memory and time of each are its own.

    Attributes:
        before: put before each command, such as `nice`.
        images: of the data set; of more than `real` only a sample is worked on.
        real: see there.
        spent: CPU seconds by what was done, times the items there are for each that was done; and `mb`, the largest memory.
    """

    before: list[str]
    images: int
    real: int
    spent: dict[str, float] = dataclasses.field(default_factory=dict)

    def map(self, what: str, function: Callable[[Any], None], items: Sequence[Any], seconds: float) -> None:
        """See `pipelines.parts.partition.Workers`."""
        name = what.split()[0]
        place = function.keywords["place"]  # type: ignore[attr-defined]
        some = list(items) if self.images <= self.real else sample(name, function, items)
        for at in range(0, len(some), GROUP[name]):
            with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
                pickle.dump((function, some[at : at + GROUP[name]]), file)
                file.flush()
                done = _stage(self.before, "work", file.name)
            self.spent[name] = self.spent.get(name, 0) + done["cpu"] * len(items) / len(some)
            self.spent["mb"] = max(self.spent.get("mb", 0), done["mb"])
        if len(some) < len(items):
            fill_up(name, place, function, items, some)


GROUP = {"lists": 100, "ranges": 16, "pieces": 40}  # items of one process
SAMPLED_RANGES = 2


def sample(name: str, function: Any, items: Sequence[Any]) -> list[Any]:
    """Which items are done where not all are."""
    if name == "lists":
        return list(items[:: max(1, len(items) // 10)])
    if name == "ranges":
        draw_cuts(**function.keywords)
        return list(items[:SAMPLED_RANGES])
    known = function.keywords
    within = sum(known["counts"][:SAMPLED_RANGES])
    dealt = deal(known["inputs"], known["shards"])
    return [number for number in items if dealt[number][1][-1].stop <= within]


def draw_cuts(place: str, tasks: int, ranges: int) -> None:
    """What all tasks have left for the ranges that are sorted: lines of the usual length, with keys as hashes give them."""
    rng = np.random.default_rng(0)
    known = json.loads(Path(partition._file(place, "known", 0)).read_text())
    each = known["facts"]["pictures"]
    buckets = split_evenly(256, ranges)
    cuts = np.zeros((257, tasks), "<i8")
    for task in range(tasks):
        at, data = 0, b""
        for bucket in range(buckets[SAMPLED_RANGES - 1].stop):
            low, high = bucket * each // 256, (bucket + 1) * each // 256
            keys = sorted(f"{bucket:02x}{rng.bytes(15).hex()}" for _ in range(high - low))
            lines = (
                f"{key}{key[:16]}".encode()
                + made_up(ShardFile(f"{task:06d}.tar", f"{ROOT}/{task:06d}.tar"), task * IN_SHARD + 1)[0].to_json()
                for key in keys
            )
            data += gzip.compress(b"".join(line + b"\n" for line in lines), 1, mtime=0)
            cuts[bucket + 1, task] = at = len(data)
        cuts[buckets[SAMPLED_RANGES - 1].stop :, task] = at
        Path(partition._file(place, "listed", task)).write_bytes(data)
    Path(place, "cuts").write_bytes(cuts.tobytes())


def fill_up(name: str, place: str, function: Any, items: Sequence[Any], some: list[Any]) -> None:
    """What the driver reads of items that were not done, copied from those that were."""
    if name == "lists":
        known = Path(partition._file(place, "known", some[0][0])).read_text()
        for number in {item[0] for item in items} - {item[0] for item in some}:
            Path(partition._file(place, "known", number)).write_text(known)
    elif name == "ranges":
        known = Path(partition._file(place, "sorted", 0)).read_text()
        for number in range(SAMPLED_RANGES, len(items)):
            Path(partition._file(place, "sorted", number)).write_text(known)
    else:
        dealt = deal(function.keywords["inputs"], function.keywords["shards"])
        known = json.loads(Path(partition._file(place, "dealt", 0)).read_text())
        for number in range(len(some), len(items)):
            shards = len(dealt[number][1])
            own = {key: (known[key] * 2)[:shards] for key in ("parts", "ids", "digests")}
            for shard, images in enumerate(dealt[number][1]):  # shards differ by one image at most
                *parts, (offset, size, count) = own["parts"][shard]
                own["parts"][shard] = [
                    *parts,
                    [offset, size, count + len(images) - sum(p[2] for p in [*parts, (0, 0, count)])],
                ]
            Path(partition._file(place, "dealt", number)).write_text(json.dumps({**known, **own}))


def work(file: str) -> dict[str, float]:
    """Does what a driver has left to be done."""
    function, items = pickle.loads(Path(file).read_bytes())
    for item in items:
        function(item)
    return {}


def plan(out: str, images: int, real: int, *before: str) -> dict[str, float]:
    """Plans made-up names by workers."""
    workers = Processes(list(before), images, real)
    source = MadeUp(ROOT, count=images)
    with (
        mock.patch.object(BuildConfig, "source", return_value=source),
        mock.patch.multiple(partition, LARGE=0, MIN_SHARDS=1),
    ):
        planned = make_plan(BuildConfig("folder", ROOT, MASKS), out, workers=workers)
    assert planned.inputs == images or images > real
    start = time.process_time()
    assert load_plan(out) == planned
    check_files(out, planned) if images <= real else None
    load = time.process_time() - start
    return {
        "load": load,
        "shards": planned.num_shards,
        "parts": planned.num_parts,
        **workers.spent,
        "work mb": workers.spent["mb"],
    }


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


def copy(out: str, images_planned: int, real: int) -> dict[str, float]:
    """Folds and commits of all other pieces, as copies of the first with the planned ids."""
    made = load_plan(out)
    assert made is not None
    first = json.loads(gzip.decompress(Path(fold_path(out, made, 0)).read_bytes()))
    rows = Path(out, rows_name(made, 0))
    images = made.parts.images().tolist()
    for index, shards in enumerate(pieces_of(made)):
        ids = [[images[shard], made.ids[shard]] for shard in shards]
        if not index:  # whose lines were drawn where its range was, with hashes that are not those of their ids
            Path(fold_path(out, made, 0)).write_bytes(gzip.compress(json.dumps({**first, "ids": ids}).encode(), 1))
            assert first["ids"] == ids or images_planned > real
            continue
        count = sum(images[shard] for shard in shards)
        first["totals"]["written"] = first["stats"]["sums"]["images"] = count
        first["ids"] = ids
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


STAGES = {"plan": plan, "work": work, "fold": fold, "copy": copy, "finish": finish}


def _stage(before: list[str], name: str, *args: str) -> dict[str, float]:
    command = [*before, sys.executable, "-m", "benchmarks.scale", "--stage", name, *args]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the stage {name} {' '.join(args)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


COLUMNS = {
    "images": (11, ",.0f"), "shards": (8, ",.0f"), "parts": (9, ",.0f"), "pieces": (7, ",.0f"),
    "list s": (9, ".0f"), "sort s": (9, ".0f"), "deal s": (9, ".0f"), "work MB": (8, ".0f"),
    "driver s": (9, ".1f"), "MB": (6, ".0f"), "load s": (7, ".2f"), "fold s": (7, ".2f"), "fold MB": (8, ".0f"),
    "finish s": (9, ".1f"), "end MB": (7, ".0f"),
}  # fmt: skip


def main() -> int:
    """Prints a line per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10**6, 10**7, 10**8], metavar="N")
    parser.add_argument(
        "--real-up-to", type=int, default=10_000_000, metavar="N", help="of more images, workers do a sample"
    )
    parser.add_argument("--scratch", help="folder with room for 150 bytes an image up to there, and 40 beyond")
    parser.add_argument("--before", default="", help="put before the command of each process")
    parser.add_argument("--stage", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        name, *given = args.stage
        start = time.process_time(), time.perf_counter()
        found = STAGES[name](*(int(one) if one.isdigit() else one for one in given))  # type: ignore[operator]
        found |= {"cpu": time.process_time() - start[0], "wall": time.perf_counter() - start[1]}
        found |= {"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}
        print(json.dumps(found))
        return 0
    before = args.before.split()
    print(" ".join(f"{name:>{width}}" for name, (width, _) in COLUMNS.items()))
    spent: dict[str, list[float]] = {"plan": [], "finish": []}
    most = 0.0
    for images in args.images:
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            out = str(Path(scratch, "out"))
            # The driver waits for its workers, which `--before` may keep waiting: nothing is put before it.
            planned = _stage([], "plan", out, str(images), str(args.real_up_to), *before)
            folded = _stage(before, "fold", out)
            _stage(before, "copy", out, str(images), str(args.real_up_to))
            finished = _stage(before, "finish", out)
            row = {
                "images": images, "shards": planned["shards"], "parts": planned["parts"], "pieces": finished["pieces"],
                "list s": planned["lists"], "sort s": planned["ranges"], "deal s": planned["pieces"],
                "work MB": planned["work mb"], "driver s": planned["cpu"], "MB": planned["mb"], "load s": planned["load"],
                "fold s": folded["join"] + folded["fold"], "fold MB": folded["mb"], "finish s": finished["cpu"],
                "end MB": finished["mb"],
            }  # fmt: skip
            marked = {"list s", "sort s", "deal s"} if images > args.real_up_to else set()
            print(
                " ".join(
                    f"{('~' if name in marked else '') + format(row[name], kind):>{width}}"
                    for name, (width, kind) in COLUMNS.items()
                ),
                flush=True,
            )
        spent["plan"].append(planned["cpu"] / images)
        spent["finish"].append(finished["cpu"] / images)
        most = max(most, planned["mb"], finished["mb"])
    growth = max(own[-1] / own[0] for own in spent.values())
    print(
        f"largest driver {most:.0f} MB; its dearest stage costs {growth:.2f} times as much an image at the largest size"
    )
    return 0 if most <= MEMORY_MB and growth <= GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
