"""Any tree of pictures. Content decides what is a picture; only files that plainly are something else are skipped."""

import dataclasses
from collections.abc import Iterator

from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.tree import list_tree

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
        for name, found in list_tree(self.images):
            yield found if isinstance(found, Refusal) else skip_other_files(name) or Input(name, found)
