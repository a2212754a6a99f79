"""The lines of a plan as they lie in its folder: one file, or of a large plan a file for each piece of about 65,536 images.

A part is a gzip member of its file, so a worker reads its lines and no others. Pieces are whole shards, and each is written by
whoever has its lines: the driver one after the other, or workers all at once (`partition.py`). What the driver is then to know
of a piece is a few numbers for each part.
"""

import dataclasses
import gzip
import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence

from maskmill.pipelines.parts.lines import ID_BYTES
from maskmill.pipelines.parts.part_index import ONLY, PartTask, lines_name
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import WORK

IMAGES_PER_PIECE = 65_536
REFUSED = "refused.jsonl"
_CHUNK = 1 << 20
_FEW = 64  # pieces; of more, reading them all would take the driver longer than it should


def split_evenly(count: int, pieces: int) -> list[range]:
    """0..count-1 as `pieces` consecutive ranges whose lengths differ by at most one."""
    return [range(i * count // pieces, (i + 1) * count // pieces) for i in range(pieces)]


def shards_of_pieces(inputs: int, shards: int, images: int) -> list[range]:
    """The shards of each piece, of about `images` images or, where shards are larger, of one shard."""
    return split_evenly(shards, max(1, min(shards, round(inputs / images))))


def deal(inputs: int, shards: int) -> list[tuple[int, list[range]]]:
    """Per piece of a plan its number, and the images of each of its shards, by their place in the order of all."""
    dealt = split_evenly(inputs, shards)
    pieces = shards_of_pieces(inputs, shards, IMAGES_PER_PIECE)
    numbered = enumerate(pieces) if len(pieces) > 1 else [(ONLY, pieces[0])]
    return [(number, dealt[own.start : own.stop]) for number, own in numbered]


@dataclasses.dataclass(frozen=True)
class Piece:
    """What is known of a written piece. JSON-able by `dataclasses.asdict`.

    Attributes:
        parts: per shard, per part: offset in the file, bytes, images.
        ids: per shard, the sum of its ids' hashes modulo 2**64.
        digests: per shard, the sha256 of its lines in hex, which does not depend on how they are dealt into parts.
        sha256: of the file, in hex.
    """

    parts: list[list[list[int]]]
    ids: list[int]
    digests: list[str]
    sha256: str


def write_piece(
    folder: str, number: int, lines: Iterable[tuple[int, bytes]], shards: Sequence[int], part_size: int
) -> Piece:
    """Deals lines into parts of at most `part_size` and writes them.

    Args:
        folder: the build's.
        number: of the piece, `ONLY` where there are no others.
        lines: with their ids' hashes, as many as the shards hold or more.
        shards: images of each.
        part_size: images.
    """
    waiting = iter(lines)
    parts: list[list[list[int]]] = []
    ids: list[int] = []
    digests: list[str] = []
    whole, offset = hashlib.sha256(), 0
    with storage.create(storage.join(folder, WORK, *lines_name(number).split("/"))) as file:
        for images in shards:
            own: list[list[int]] = []
            total, digest = 0, hashlib.sha256()
            for part in split_evenly(images, max(1, math.ceil(images / part_size))):
                taken = list(itertools.islice(waiting, len(part)))
                total += sum(id_hash for id_hash, _ in taken)
                block = b"".join(line + b"\n" for _, line in taken)
                digest.update(block)
                member = gzip.compress(block, compresslevel=6, mtime=0)
                whole.update(member)
                file.write(member)
                own.append([offset, len(member), len(part)])
                offset += len(member)
            parts.append(own)
            ids.append(total % (1 << 8 * ID_BYTES))
            digests.append(digest.hexdigest())
    return Piece(parts, ids, digests, whole.hexdigest())


def write_refused(folder: str, refused: Iterable[Refusal]) -> tuple[int, str]:
    """Writes what was refused while listing; returns how many they are, and the file's sha256 in hex."""
    count, whole = 0, hashlib.sha256()
    with storage.create(storage.join(folder, WORK, REFUSED)) as file:
        for refusal in refused:
            line = json.dumps(dataclasses.asdict(refusal)).encode() + b"\n"
            whole.update(line)
            file.write(line)
            count += 1
    return count, whole.hexdigest()


def damaged(path: str, why: str | Exception) -> DamageError:
    """What to say of a plan's file."""
    return DamageError(f"{path} cannot be read ({why}); build with --overwrite, which plans and builds anew")


def check_files(folder: str, files: dict[str, str], sizes: dict[str, int], stated_by: str) -> None:
    """Makes sure that a plan's files are there, and are those that were written.

    Of a plan in many pieces these are only measured. Workers check what they read of one by the CRC of its gzip member, and the
    ids of each shard are compared with the plan's when it is folded.

    Args:
        folder: the build's.
        files: sha256 in hex, by name below `_work`.
        sizes: bytes of those that are known.
        stated_by: the file that says so, for messages.

    Raises:
        DamageError: one is missing or has other bytes.
    """
    pieces = [name for name in sizes if name in files]
    measured = set(pieces) if len(pieces) > _FEW else set[str]()
    found: dict[str, int] = {}
    for place in {name.rpartition("/")[0] for name in measured}:
        there = storage.sizes(storage.join(folder, WORK, *filter(None, [place])))
        found |= {f"{place}/{name}" if place else name: size for name, size in there.items()}
    for name, sha256 in sorted(files.items()):
        path = storage.join(folder, WORK, *name.split("/"))
        try:
            if name in measured:
                if name not in found:
                    raise FileNotFoundError(path)
                same = found[name] == sizes[name]
            else:
                same = _sha256(path) == sha256
        except FileNotFoundError as error:
            raise damaged(path, "it is missing") from error
        if not same:
            raise damaged(path, f"its bytes are not those that {stated_by} states")


def _sha256(path: str) -> str:
    total = hashlib.sha256()
    with storage.open_read(path) as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def read_part(folder: str, task: PartTask) -> list[Input]:
    """The inputs of one part, in the order of their records.

    Raises:
        DamageError: the lines are missing or damaged.
    """
    path = storage.join(folder, WORK, *lines_name(task.piece).split("/"))
    try:
        member = storage.read_bytes(path, task.offset, task.size)
    except FileNotFoundError as error:
        raise damaged(path, "it is missing") from error
    try:
        items = [Input.from_json(line) for line in gzip.decompress(member).splitlines()]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:  # the first are gzip's own
        raise damaged(path, error) from error
    if len(items) != task.images:
        raise damaged(path, f"part {task.name} has {len(items)} inputs, not {task.images}")
    return items


def read_refused(folder: str) -> Iterator[Refusal]:
    """Inputs refused while listing.

    Raises:
        DamageError: the lines are missing or damaged.
    """
    path = storage.join(folder, WORK, REFUSED)
    try:
        with storage.open_read(path) as file:
            for line in file:
                yield Refusal(**json.loads(line))
    except FileNotFoundError as error:
        raise damaged(path, "it is missing") from error
    except (ValueError, TypeError) as error:
        raise damaged(path, error) from error
