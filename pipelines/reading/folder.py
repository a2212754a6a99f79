"""Any tree of pictures. Content decides what is a picture; only files that plainly are something else are skipped."""

import dataclasses
from collections.abc import Iterator

from maskmill.pipelines.reading.bucket_folder import find_ranges, walk_range
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.shard_files import Facts, Listed, ShardFile, Shards
from maskmill.pipelines.reading.tree import is_archive, list_tree
from maskmill.schemas import storage

# Endings of files that people keep beside pictures. Everything else is opened and decided by content.
_TEXT = "txt md rst json jsonl csv tsv xml yaml yml html htm pdf doc docx log ini"
_DATA = "py m mat npy npz parquet tfrecord zip tar gz tgz bz2 xz 7z mp4 avi mov db sqlite lock sha256 md5"
NOT_PICTURES = frozenset(f".{ending}" for words in (_TEXT, _DATA) for ending in words.split())


def skip_other_files(name: str) -> Refusal | None:
    """A `skipped` ledger line for a file that is plainly not a picture, else None."""
    dot = name.rfind(".")
    ending = name[dot:].lower() if dot > name.rfind("/") else ""
    if ending in NOT_PICTURES:
        return Refusal(name, "list", "unsupported_format", f"{ending} files are not pictures", 0, "skipped")
    return None


@dataclasses.dataclass(frozen=True)
class Folder:
    """The `folder` data set.

    Attributes:
        images: folder, .zip or .tar of pictures at any depth.
    """

    images: str
    categories: dict[int, str] = dataclasses.field(default_factory=dict)
    labels: str = "none"

    def list_inputs(self) -> Iterator[Input | Refusal]:
        yield from map(_settle, list_tree(self.images))

    def find(self) -> Shards | None:
        """Ranges of names on gs://, where there are many."""
        if not storage.is_remote(self.images) or is_archive(self.images):
            return None
        try:
            return Shards(find_ranges(self.images), [], list_pictures)
        except OSError:
            return None  # whoever lists the tree says why

    def conclude(self, facts: Facts) -> None:
        """Nothing depends on what was found."""


def list_pictures(shard: ShardFile) -> list[Listed]:
    """What is in a range of names."""
    return list(map(_settle, walk_range(shard)))


def _settle(listed: tuple[str, Location | Refusal]) -> Listed:
    name, found = listed
    return found if isinstance(found, Refusal) else skip_other_files(name) or Input(name, found)
