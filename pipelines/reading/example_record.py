"""One picture in a TFRecord of `tf.train.Example`s: which record, and cutting the picture out of it."""

import dataclasses
from collections.abc import Callable

from google.protobuf.message import DecodeError

from maskmill.pipelines.reading.location import MAX_FILE_BYTES, too_large
from maskmill.schemas import example_pb2, storage
from maskmill.schemas.errors import ImageError
from maskmill.schemas.tfrecord import FRAME_BYTES, frame_ends


@dataclasses.dataclass(frozen=True, slots=True)  # there can be millions
class ExampleRecord:
    """Where the bytes of one picture are, in a TFRecord.

    Attributes:
        path: of the file, local or gs://.
        offset: of the record's frame, bytes.
        size: of the record's payload, bytes.
        feature: the bytes feature that holds the picture's file.
    """

    path: str
    offset: int
    size: int
    feature: str

    @property
    def stated(self) -> int:
        """How many bytes the picture has at most."""
        return self.size

    def read(self, admit: Callable[[int], None] = lambda size: None) -> bytes:
        """The picture's file. The record's checksums are those of its frame, and are checked.

        It takes twice the memory of the record. `admit` is asked before, with its bytes; see `Location.read`.

        Raises:
            ImageError: not_found, unreadable, truncated or too_large, stage "read".
        """
        where = f"the record at byte {self.offset} of {self.path}"
        if self.size > MAX_FILE_BYTES:
            raise too_large("read", self.size)
        admit(self.size)
        try:
            data = storage.read_range(self.path, self.offset, self.size + FRAME_BYTES)
        except FileNotFoundError as error:
            raise ImageError("not_found", "read", f"no file at {self.path}") from error
        except EOFError as error:
            raise ImageError("truncated", "read", str(error)) from error
        except OSError as error:
            raise ImageError("unreadable", "read", f"{self.path}: {error.strerror or error}") from error
        ends, payload = (data[:12], data[-4:]), data[12:-4]
        del data
        if frame_ends(payload) != ends:
            raise ImageError("unreadable", "read", f"{where} is damaged: its checksums are not those of its bytes")
        try:
            message = example_pb2.Example.FromString(payload)  # type: ignore[attr-defined]
        except DecodeError as error:
            raise ImageError("unreadable", "read", f"{where} is no tf.train.Example: {error}") from error
        del payload
        values = message.features.feature[self.feature].bytes_list.value
        if len(values) != 1:
            text = f"{where} has {len(values)} pictures in its feature {self.feature!r}, not one"
            raise ImageError("not_found", "read", text)
        return values[0]
