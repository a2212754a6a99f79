"""What training takes, before any picture is read: rows, memory, disk and core-hours.

Rows are bounded in all, not per picture only: 118,000 pictures would give 57 GB of pixels to learn from and 33 GB of
candidates, and the fit holds them in one process. The bound is dealt out evenly, since many pictures with a few rows each
teach more than few with many; which of its rows a picture keeps depends on its id and the seed alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from maskmill.masks.mcg.contours import CONTOUR_FEATURES
from maskmill.masks.mcg.features import CANDIDATE_FEATURES
from maskmill.masks.mcg.proposals import STANDARD
from maskmill.pipelines.mcg_training.contour_samples import COUNTS
from maskmill.pipelines.mcg_training.ranker_samples import SAMPLES
from maskmill.schemas.errors import UsageError

MAX_ROWS = 4_000_000
ROW_LIMITS = (500, 20_000_000)
FEWEST_ROWS = 8  # of a picture: below this reading it is not worth the while
# About how many rows a picture of COCO gives where nothing bounds them.
CONTOUR_ROWS = round(sum(COUNTS) * sum(STANDARD.scales))
CANDIDATE_ROWS = SAMPLES

# Seconds of one core a picture, and a million rows of one fit: estimates, never held against a run of this size.
CONTOUR_SECONDS, PROPOSE_SECONDS = 0.3, 0.7
CONTOUR_FIT_SECONDS, RANKER_FIT_SECONDS = 60.0, 300.0
# Bytes of memory a byte of rows (as read, put together, without one fold, and binned) and of disk: estimates too.
MEMORY_COPIES, DISK_SHARE, PROCESS_BYTES = 3.5, 1.0, 500 * 2**20


def rows_each(pictures: int, max_rows: int) -> int:
    """Rows that each of so many pictures may give.

    Raises:
        UsageError: too few to be worth reading the pictures for.
    """
    each = max_rows // pictures
    if each < FEWEST_ROWS:
        raise UsageError(
            f"at most {max_rows} rows in all leave {each} for each of {pictures} pictures, fewer than {FEWEST_ROWS}; "
            f"raise --max-rows to {FEWEST_ROWS * pictures} or choose {max_rows // FEWEST_ROWS} pictures with --limit"
        )
    return each


def thinned(found: dict[str, np.ndarray], count: int, seed: int) -> dict[str, np.ndarray]:
    """At most `count` of a picture's rows and targets, a seeded choice in their order."""
    if len(found["rows"]) <= count:
        return found
    kept = np.sort(np.random.default_rng([seed, 1]).choice(len(found["rows"]), count, replace=False))
    return {name: column[kept] for name, column in found.items()}


@dataclasses.dataclass(frozen=True)
class Budget:
    """What training takes at most.

    Attributes:
        pictures, measured: in all, and those measured at the end.
        rows_each: rows of one picture at most, for either model.
        contour_rows, candidate_rows: rows of each model, about.
        memory_bytes: of the process that fits, at its peak; disk_bytes: of `_work`.
        worker_hours: core-hours of sampling and measuring, which spread over workers.
        driver_hours: hours of fitting, one model after another on one core.
    """

    pictures: int
    measured: int
    rows_each: int
    contour_rows: int
    candidate_rows: int
    memory_bytes: int
    disk_bytes: int
    worker_hours: float
    driver_hours: float


def budget(pictures: int, measured: int, folds: int, max_rows: int, contour_only: bool = False) -> Budget:
    """What training on so many pictures takes.

    Raises:
        UsageError: see `rows_each`.
    """
    each = rows_each(pictures, max_rows)
    contours = pictures * min(each, CONTOUR_ROWS)
    candidates = 0 if contour_only else pictures * min(each, CANDIDATE_ROWS)
    contour_bytes, candidate_bytes = 4 * len(CONTOUR_FEATURES) * contours, 4 * len(CANDIDATE_FEATURES) * candidates
    fits = 1 if contour_only else folds + 1
    measured = 0 if contour_only else measured
    proposed = 0 if contour_only else pictures + measured
    fit_seconds = (CONTOUR_FIT_SECONDS * contours + RANKER_FIT_SECONDS * candidates) * fits / 1e6
    return Budget(
        pictures=pictures,
        measured=measured,
        rows_each=each,
        contour_rows=contours,
        candidate_rows=candidates,
        memory_bytes=int(PROCESS_BYTES + MEMORY_COPIES * max(contour_bytes, candidate_bytes)),
        disk_bytes=int(DISK_SHARE * (contour_bytes + candidate_bytes)),
        worker_hours=(CONTOUR_SECONDS * pictures + PROPOSE_SECONDS * proposed) / 3600,
        driver_hours=fit_seconds / 3600,
    )


def describe(needed: Budget) -> str:
    """The budget in words."""
    lines = [
        f"{needed.pictures} pictures, at most {needed.rows_each} rows of each for either model; {needed.measured} measured",
        f"rows: {needed.contour_rows / 1e6:.2f} million pixels, {needed.candidate_rows / 1e6:.2f} million candidates",
        f"memory, estimated: {needed.memory_bytes / 2**30:.1f} GiB in the process that fits; a worker takes what a build's does",
        f"disk: {needed.disk_bytes / 2**30:.1f} GiB under _work",
        f"time, estimated: {needed.worker_hours:.1f} core-hours of sampling and measuring, over all workers, "
        f"then {needed.driver_hours:.1f} hours of fitting on one core",
    ]
    return "\n".join(lines)
