"""What a build would cost: inputs counted, a sample built and timed, hours and bytes extrapolated."""

import collections
import dataclasses
import os
import shutil
import tempfile
import time

from maskmill.pipelines.driver.sampled import Sampled
from maskmill.pipelines.parts import memory
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.image_builder import ImageBuilder
from maskmill.pipelines.parts.isolation import ChildProcess
from maskmill.pipelines.parts.plan import IMAGES_PER_PART, default_num_shards, list_prepared
from maskmill.pipelines.parts.preparing import has_prepared, prepared_folder
from maskmill.pipelines.reading.inputs import Input, Refusal, Source
from maskmill.pipelines.reading.location import MAX_FILE_BYTES
from maskmill.pipelines.reading.patience import PATIENCE_S, patiently
from maskmill.pipelines.reading.read_ahead import read_one
from maskmill.schemas import storage

SAMPLE_IMAGES = 50
PACE_IMAGES = 24
SAMPLE_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The cost of a build.

    Attributes:
        inputs, to_build: images there are, and those not already refused.
        refused: reason -> number refused or skipped while listing.
        labels: where class labels come from, in words.
        shards, parts: how many there would be.
        sampled, sample_failures: images built for the estimate, and how many of them failed.
        seconds_per_image, bytes_per_image: means over the sample; None when nothing could be built.
        cores: cores that the hours are for.
        free_bytes: free space at the output; None where unknown.
        worker_bytes: memory of a worker, at most: for the largest picture that `max_pixels` lets through.
        file_limit: bytes of the largest file that is read.
        file_bytes: memory that it takes on top.
        machine_bytes: memory of this machine.
        large_pixels: from how many pixels on pictures are built one at a time here.
        listed, there: files of the data set that were listed, and that there are; where they differ, numbers of images are
            those of the files listed, times how many more there are.
    """

    inputs: int
    to_build: int
    refused: dict[str, int]
    labels: str
    shards: int
    parts: int
    sampled: int
    sample_failures: int
    seconds_per_image: float | None
    bytes_per_image: float | None
    cores: int
    free_bytes: int | None
    worker_bytes: int
    file_limit: int
    file_bytes: int
    machine_bytes: int
    large_pixels: int
    listed: int = 1
    there: int = 1

    @property
    def core_seconds(self) -> float | None:
        """CPU time of the whole build."""
        return None if self.seconds_per_image is None else self.seconds_per_image * self.to_build

    @property
    def out_bytes(self) -> float | None:
        """Size of all shards."""
        return None if self.bytes_per_image is None else self.bytes_per_image * self.to_build


def free_space(folder: str) -> int | None:
    """Free bytes where a folder is or would be; None on gs://."""
    if not folder or storage.is_remote(folder):
        return None
    place = os.path.abspath(folder)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    return shutil.disk_usage(place).free


def seconds_per_image(config: BuildConfig, lines: list[bytes], prepared: str = "") -> float | None:
    """Seconds that an image takes here, reading included, from a small sample of a plan's lines; None when none was built.

    The sample is built in a child process: what crashes or hangs on one picture must not take the driver with it.
    """
    child = ChildProcess(config.settings(prepared), SAMPLE_SECONDS)
    seconds: list[float] = []
    begin = time.perf_counter()
    try:
        for line in lines[:PACE_IMAGES]:
            item = Input.from_json(line)
            start = time.perf_counter()
            data = read_one(item, PATIENCE_S)
            if isinstance(data, Refusal):
                continue  # could not be read; says nothing about the others
            child.build(item, data)
            seconds.append(time.perf_counter() - start)
            if len(seconds) == 1:
                begin = time.perf_counter()  # the first one pays for the child's start, which may compile kernels
            elif time.perf_counter() - begin > SAMPLE_SECONDS:
                break
    finally:
        child.close()
    return sum(seconds[1:]) / len(seconds[1:]) if len(seconds) > 1 else None


def estimate(
    config: BuildConfig, out: str, cores: int, part_size: int = 0, patience: float = PATIENCE_S, most_files: int = 0
) -> Estimate:
    """Lists the inputs and builds a random sample of them in this process; writes nothing.

    Args:
        config: what would be built.
        out: where it would go, or "".
        cores: for the hours.
        part_size: images per part; 0 means the default.
        patience: seconds for which storage may stand still, and that reading one picture may take.
        most_files: of a data set in more shards only so many are listed; 0 lists all.
    """
    with tempfile.TemporaryDirectory(prefix="maskmill-plan-") as scratch:
        source: Source = config.source()
        # Masks made elsewhere are joined with all pictures, or it is not known whether they are theirs.
        if most_files and not has_prepared(config.masks):
            source = Sampled(source, most_files)
        return _estimate(config, source, out, cores, part_size, patience, scratch)


def _estimate(
    config: BuildConfig, source: Source, out: str, cores: int, part_size: int, patience: float, scratch: str
) -> Estimate:
    config, lines, refused = list_prepared(config, source, scratch, patience=patience)
    builder = ImageBuilder(config.settings(prepared_folder(scratch)))
    builder.warm_up()  # compiling the kernels would otherwise use up the time for the sample
    seconds: list[float] = []
    sizes: list[int] = []
    failures = 0
    begin = time.perf_counter()
    # Lines are in the seeded order of records, so the first ones are a random sample.
    for line in lines.head(SAMPLE_IMAGES):
        item = Input.from_json(line)
        start = time.perf_counter()
        data = read_one(item, patience)
        payload = b"" if isinstance(data, Refusal) else builder.build(item, data).payload
        if payload:
            seconds.append(time.perf_counter() - start)
            sizes.append(len(payload))
        else:
            failures += 1
        if time.perf_counter() - begin > SAMPLE_SECONDS:
            break
    steady = seconds[1:] or seconds  # the first one pays for loading compiled code
    some = source if isinstance(source, Sampled) else Sampled(source, 0)
    to_build = min(some.about(len(lines)), config.limit or some.about(len(lines)))
    return Estimate(
        inputs=to_build + some.about(len(refused)),
        to_build=to_build,
        refused={why: some.about(n) for why, n in sorted(collections.Counter(r.reason for r in refused).items())},
        labels=source.labels,
        shards=config.num_shards or default_num_shards(to_build),
        parts=-(-to_build // (part_size or IMAGES_PER_PART)),
        sampled=len(seconds) + failures,
        sample_failures=failures,
        seconds_per_image=sum(steady) / len(steady) if steady else None,
        bytes_per_image=sum(sizes) / len(sizes) if sizes else None,
        cores=cores,
        free_bytes=patiently(lambda: free_space(out), patience, out),
        worker_bytes=memory.worker_bytes(builder.generators, config.max_pixels),
        file_limit=MAX_FILE_BYTES,
        file_bytes=memory.FILE_BYTES,
        machine_bytes=memory.machine_bytes(),
        large_pixels=memory.large_pixels(builder.generators, cores),
        listed=some.listed,
        there=some.there,
    )
