"""One picture in a TFRecord of `tf.train.Example`s: which record, and cutting the picture out of it."""

import dataclasses

from google.protobuf.message import DecodeError

from maskmill.pipelines.reading.location import MAX_FILE_BYTES
from maskmill.schemas import example_pb2, storage
from maskmill.schemas.errors import ImageError
from maskmill.schemas.tfrecord import FRAME_BYTES, frame


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

    def read(self) -> bytes:
        """The picture's file. The record's checksums are those of its frame, and are checked.

        Raises:
            ImageError: not_found, unreadable, truncated or too_large, stage "read".
        """
        where = f"the record at byte {self.offset} of {self.path}"
        if self.size > MAX_FILE_BYTES:
            raise ImageError("too_large", "read", f"{where} has more than {MAX_FILE_BYTES} bytes")
        try:
            data = storage.read_range(self.path, self.offset, self.size + FRAME_BYTES)
        except FileNotFoundError as error:
            raise ImageError("not_found", "read", f"no file at {self.path}") from error
        except EOFError as error:
            raise ImageError("truncated", "read", str(error)) from error
        except OSError as error:
            raise ImageError("unreadable", "read", f"{self.path}: {error.strerror or error}") from error
        payload = data[12:-4]
        if frame(payload) != data:
            raise ImageError("unreadable", "read", f"{where} is damaged: its checksums are not those of its bytes")
        try:
            message = example_pb2.Example.FromString(payload)  # type: ignore[attr-defined]
        except DecodeError as error:
            raise ImageError("unreadable", "read", f"{where} is no tf.train.Example: {error}") from error
        values = message.features.feature[self.feature].bytes_list.value
        if len(values) != 1:
            text = f"{where} has {len(values)} pictures in its feature {self.feature!r}, not one"
            raise ImageError("not_found", "read", text)
        return values[0]
