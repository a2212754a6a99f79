"""A build in pieces of about 65,536 images: consecutive shards that are folded together, on whichever worker is free.

The end of a build reads pieces, not images: 1,500 files for a hundred million. A piece is made from what is known of its
shards' parts, at any time and by anyone, and made again where it is missing or of other shards; so nothing waits for it.
Its rows are a parquet file of one row group. A data set of up to `ONE_TABLE` images gets them as one `images.parquet`; of a
larger one they stay as they are, `images/00000.parquet` and so on, since nobody opens a footer of gigabytes.
"""

import bisect
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from maskmill.pipelines.dataset.checksums import HashedStream
from maskmill.pipelines.dataset.images_table import ONE_TABLE, ROWS_PER_GROUP, ImagesWriter
from maskmill.pipelines.folding.fold import Fold, IdSum, Subject
from maskmill.pipelines.parts.assemble import forget_unreadable, load_parts, load_shard
from maskmill.pipelines.parts.part_index import DIGEST_DIGITS
from maskmill.pipelines.parts.plan import Plan
from maskmill.pipelines.parts.plan_lines import read_part, shards_of_pieces
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import WORK, images_piece

PIECES = "pieces"


@functools.lru_cache(maxsize=4)
def _pieces(inputs: int, shards: int, images: int) -> tuple[range, ...]:
    return tuple(shards_of_pieces(inputs, shards, images))


def pieces_of(plan: Plan) -> tuple[range, ...]:
    """The shards of each piece."""
    return _pieces(plan.inputs, plan.num_shards, ROWS_PER_GROUP)


def piece_of_shard(plan: Plan, shard: int) -> int:
    """Index of the piece that a shard belongs to."""
    return bisect.bisect_right(pieces_of(plan), shard, key=lambda shards: shards.start) - 1


def is_one_table(plan: Plan) -> bool:
    """Whether the data set's rows will be one file."""
    return plan.inputs <= ONE_TABLE


def fold_path(folder: str, plan: Plan, index: int) -> str:
    """Where the fold of a piece lies."""
    return storage.join(folder, WORK, PIECES, f"{index:05d}-{plan.digest[:DIGEST_DIGITS]}.json.gz")


def rows_name(plan: Plan, index: int) -> str:
    """Where the rows of a piece lie, below the build's folder."""
    if is_one_table(plan):
        return f"{WORK}/{PIECES}/{index:05d}-{plan.digest[:DIGEST_DIGITS]}.parquet"
    return images_piece(index)


def load_piece(folder: str, plan: Plan, index: int, sha256: Iterable[str]) -> Fold | None:
    """The fold of a piece whose shards have these digests; None where it is to be made."""
    try:
        fold = Fold.from_bytes(storage.read_bytes(fold_path(folder, plan, index)))
        there = storage.size(storage.join(folder, *fold.rows.name.split("/"))) == fold.rows.bytes
    except (OSError, ValueError):
        return None
    return fold if there and fold.plan_digest == plan.digest and fold.shards == list(sha256) else None


def fold_piece(folder: str, plan: Plan, index: int) -> Fold | None:
    """Folds a piece, where that has not been done; None while one of its shards is not whole.

    Raises:
        DamageError: what is known of a shard's parts is missing or damaged; the same build command mends it.
    """
    shards = [(shard, load_shard(folder, plan, shard)) for shard in pieces_of(plan)[index]]
    whole = [(shard, known.sha256) for shard, known in shards if known is not None]
    if len(whole) < len(shards):
        return None
    if (done := load_piece(folder, plan, index, (sha256 for _, sha256 in whole))) is not None:
        return done
    fold, subject, name = _empty(plan, index), Subject.of(plan), rows_name(plan, index)
    with storage.create(storage.join(folder, *name.split("/"))) as file:
        stream = HashedStream(file)
        with ImagesWriter(stream, subject.series, subject.stages) as writer:
            for shard, sha256 in whole:
                try:
                    for rows in fold.add_shard(sha256, load_parts(folder, plan, shard), plan.config.seed):
                        writer.write(rows)
                except DamageError:
                    forget_unreadable(folder, plan, shard)
                    raise
    fold.rows = stream.file(name)
    storage.write_bytes(fold_path(folder, plan, index), fold.to_bytes())
    return fold


def _empty(plan: Plan, index: int) -> Fold:
    return Fold.zero(plan, Subject.of(plan), pieces_of(plan)[index].start)


def read_piece(folder: str, plan: Plan, index: int, sha256: Sequence[str]) -> Fold:
    """The fold of a piece whose shards have these digests, from what the folder holds; nothing is written.

    Raises:
        DamageError: the folder does not hold what is known of the piece's parts.
    """
    if (done := load_piece(folder, plan, index, sha256)) is not None:
        return done
    fold = _empty(plan, index)
    for shard, own in zip(pieces_of(plan)[index], sha256, strict=True):
        for _ in fold.add_shard(own, load_parts(folder, plan, shard), plan.config.seed):
            pass  # the rows are in the table
    return fold


def forget_piece(folder: str, plan: Plan, shard: int) -> None:
    """Removes the fold that a shard is in, whose parts will be built again."""
    storage.remove(fold_path(folder, plan, piece_of_shard(plan, shard)))


def check_ids(folder: str, plan: Plan, fold: Fold) -> None:
    """Makes sure that the records and failures of each shard are exactly its planned inputs, by id.

    Counts and sums are compared. Only where they differ are the shard's ids read one by one, to name those concerned.

    Raises:
        DamageError: they are not.
    """
    for shard, seen in enumerate(fold.ids, fold.first):
        images = sum(task.images for task in plan.parts[shard])
        if plan.ids and IdSum(images, plan.ids[shard]) == seen:
            continue
        planned = Counter(item.id for task in plan.parts[shard] for item in read_part(folder, task))
        if not plan.ids and IdSum.of(list(planned.elements()), plan.config.seed) == seen:
            continue
        found = Counter(_ids(folder, plan, shard))
        forget_piece(folder, plan, shard)
        if planned == found:
            raise DamageError(f"the sums of ids of shard {shard} are damaged; the same build command makes them again")
        lost, extra = list((planned - found).elements())[:3], list((found - planned).elements())[:3]
        raise DamageError(f"shard {shard} does not account for its inputs: lost {lost}, unplanned {extra}")


def _ids(folder: str, plan: Plan, shard: int) -> Iterator[str]:
    for sidecar in load_parts(folder, plan, shard):
        yield from (row["id"] for row in sidecar.rows)
        yield from (failure["id"] for failure in sidecar.failures)
