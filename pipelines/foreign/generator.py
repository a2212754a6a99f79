"""Generator `imported`: masks made elsewhere as a layer like any other.

It has to look at files once, before anything is built: `prepare` reads what is to be imported, joins it with the
pictures, and leaves what each picture has in the build's folder. It answers with itself completed by the digest of what
it read, which becomes part of the build's configuration, so workers and the manifest speak of the same bytes.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence, Set

from maskmill.masks.registry import Preparation, Prepared
from maskmill.pipelines.foreign.formats import FORMATS, Listing, check_format, detect, reader_of
from maskmill.pipelines.foreign.join import Joined, Picture, join, only
from maskmill.pipelines.foreign.store import Spool, Store, has_store, write_store
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, ImageError, InputError, UsageError
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.manifest import digest
from maskmill.schemas.mask import Layer, MaskSet

MAX_TOP = 10_000
SCORES = ("score", "predicted_iou", "stability_score")
MIN_MATCHED = 0.5  # of the pictures; below, the masks are another data set's or the names were not understood
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@dataclasses.dataclass(frozen=True)
class Imported(Prepared):
    """Generator `imported(path=..., name=...)`.

    Attributes:
        path: file or folder of the masks, local or gs://.
        name: of the layer.
        format: one of `FORMATS`; "" finds out.
        top: masks per picture, the best ones; 0: as many as `FORMATS` says.
        score: which quality ranks masks, one of `SCORES`; "": `score` or else `predicted_iou`, where there is one.
        void: label of label maps that belongs to no mask; -1: none (0 in panoptic PNGs is void in any case).
        sha256: of what is at `path` (see `Listing.sha256`); "" before it was read. Something else there is refused.
    """

    path: str = ""
    name: str = "imported"
    format: str = ""
    top: int = 0
    score: str = ""
    void: int = -1
    sha256: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise ValueError("imported needs path=..., where the masks are")
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            raise ValueError(f"imported name must be letters, digits, '.', '_' and '-', at most 64, got {self.name!r}")
        if self.format != "":
            check_format(self.format)
        if isinstance(self.top, bool) or not isinstance(self.top, int) or not 0 <= self.top <= MAX_TOP:
            raise ValueError(f"imported top must be a whole number in 0..{MAX_TOP}, got {self.top!r}")
        if self.score not in ("", *SCORES):
            raise ValueError(f"imported score is one of {', '.join(SCORES)}, got {self.score!r}")
        if isinstance(self.void, bool) or not isinstance(self.void, int) or not -1 <= self.void < 2**24:
            raise ValueError(f"imported void must be a label, a whole number in 0..{2**24 - 1}, got {self.void!r}")
        if self.sha256 and not (isinstance(self.sha256, str) and _SHA256.match(self.sha256)):
            raise ValueError(f"imported sha256 must be 64 hexadecimal digits, got {self.sha256!r}")

    @property
    def layers(self) -> tuple[Layer, ...]:
        params: dict[str, str | int] = {
            "file": self.path.rstrip("/").rsplit("/", 1)[-1],
            "format": self.format,
            "sha256": self.sha256,
        }
        params |= {"top": self.most, "score": self.score, "void": self.void}
        provenance = {"labels": "unknown: masks made elsewhere"}
        return (Layer(self.name, "imported", params, provenance, disjoint=self.format == "label-png"),)

    @property
    def most(self) -> int:
        """Masks per picture."""
        return self.top or (FORMATS[self.format].top if self.format else 0) or MAX_TOP

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        raise UsageError("imported masks are joined with their pictures when a build is planned; use `maskmill import`")

    def prepare(self, pictures: Sequence[tuple[str, str]], wanted: Set[str], folder: str) -> Preparation:
        form = self.format or detect(self.path)
        with Spool() as spool:
            listing = reader_of(form).index(self.path, spool)
            if self.sha256 and self.sha256 != listing.sha256:
                raise InputError(_changed(self.path, self.sha256, listing.sha256))
            ready = dataclasses.replace(self, format=form, sha256=listing.sha256)
            # With all pictures, of which only some are built: what could be another's must not be attached to these.
            joined = only(join([Picture(key, coco_id) for key, coco_id in pictures], listing.names), wanted)
            said = _matched(self.path, listing, joined)
            keys = {source: key for key, source in joined.sources.items()}
            blocks = ((keys[source], group) for source, group in spool.groups() if source in keys)
            write_store(storage.join(folder, ready._identity), blocks, self.path)
        why = {key: f"{self.path.rstrip('/').rsplit('/', 1)[-1]}: {text}" for key, text in joined.refused.items()}
        return Preparation(ready, why, said)

    def verify(self, folder: str) -> None:
        if not has_store(storage.join(folder, self._identity)):
            raise DamageError(f"the index of {self.path} is gone from the build's folder; build with --overwrite")
        now = reader_of(self.format).digest(self.path)
        if now != self.sha256:
            raise InputError(_changed(self.path, self.sha256, now))

    def opened(self, folder: str) -> "Opened":
        return Opened(self, storage.join(folder, self._identity))

    @property
    def read_by_workers(self) -> tuple[str, ...]:
        return () if self.path.endswith(".json") else (self.path,)  # of one file for all, all is in the store

    @property
    def _identity(self) -> str:
        return digest([self.path, self.format, self.sha256, self.name])[:32]


class Opened:
    """`imported` with what its pictures have at hand; what a worker calls."""

    def __init__(self, wanted: Imported, path: str):
        self.wanted, self.path = wanted, path

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.wanted.layers

    @functools.cached_property
    def _store(self) -> Store:
        return Store(self.path)

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        block = self._store.get(record.key)
        if block is None:
            raise ImageError("unmatched", "imported", f"{self.wanted.path} has no entry for this picture")
        read = reader_of(self.wanted.format).read
        return (read(block, record.key, record.height, record.width, self.wanted),)


def _changed(path: str, then: str, now: str) -> str:
    return (
        f"{path} is not what this build was begun with (sha256 {then[:16]}..., now {now[:16]}...); "
        "put the old one back, choose another --out, or --overwrite to start anew"
    )


def _matched(path: str, listing: Listing, joined: Joined) -> str:
    """`matched X of Y pictures`; InputError when too few are."""
    matched, pictures = len(joined.sources), len(joined.sources) + len(joined.refused)
    said = f"{path}: matched {matched:,} of {pictures:,} pictures"
    if matched >= MIN_MATCHED * pictures:
        return said
    key = min(joined.refused)
    entries = sorted({name.text for name in listing.names}, key=lambda text: (len(text), text))[:2]
    names = f"it names its pictures {' and '.join(repr(text[:80]) for text in entries)}" if entries else "it names none"
    numbers = all(name.kind == "number" for name in listing.names)
    hint = (
        "; numbers are ids of COCO, which --dataset coco joins, and of nothing else: file names are needed"
        if entries and numbers
        else ""
    )
    raise InputError(
        f"{said}, and at least half are needed, or the masks would be those of other pictures; {names}, the data set has "
        f"{key[:80]!r} ({joined.refused[key][:160]}){hint}"
    )
