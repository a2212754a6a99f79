"""The ways a run can end badly, and the closed list of reasons for losing one image.

What a user did wrong, what a data set has wrong, and what one image has wrong are three different things: the first two
stop a command with an exit code (contract of the command line), the last becomes a row of the failure ledger and never
stops anything.
"""

import difflib
from collections.abc import Iterable

# Every reason a ledger row may carry. Closed on purpose: dashboards and retry rules are written against it.
REASONS = (
    "not_found",
    "unreadable",
    "empty_file",
    "not_an_image",
    "truncated",
    "unsupported_format",
    "too_large",
    "decode_error",
    "size_mismatch",
    "bad_annotation",
    "bad_rle",
    "dangling_image_id",
    "no_masks",
    "unmatched",
    "generator_error",
    "timeout",
    "worker_crash",
    "encode_error",
    "write_error",
    "duplicate_id",
    "not_taken",
)

MESSAGE_LIMIT = 300  # characters of a ledger message; a path or a library's text can be arbitrarily long


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `name` was probably meant to be, None where none is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, to be appended to what was wrong; nothing where none of `known` is like `name`."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


class MaskmillError(Exception):
    """Base of every error whose text is meant for the user. `exit_code` is the command's."""

    exit_code = 1


class UsageError(MaskmillError, ValueError):
    """The command or call cannot mean anything: wrong flag, wrong spec, contradictory options."""

    exit_code = 2


class InputError(MaskmillError):
    """An input is missing or unreadable, or an output folder is not what it should be."""

    exit_code = 4


class DamageError(MaskmillError):
    """A data set does not hold what its manifest promises."""

    exit_code = 5


class ImageError(MaskmillError):
    """One image cannot become a record; carried to the failure ledger.

    Attributes:
        reason: one of `REASONS`.
        stage: where it happened: list, read, decode, annotate, a generator's name, encode, write.
    """

    def __init__(self, reason: str, stage: str, message: str):
        if reason not in REASONS:
            raise ValueError(f"unknown failure reason {reason!r}; the closed list is {', '.join(REASONS)}")
        super().__init__(message)
        self.reason = reason
        self.stage = stage

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Exceptions pickle by args alone; workers send these across processes.
        return type(self), (self.reason, self.stage, str(self))


def one_line(said: object) -> str:
    """What a library says, in one line of printable text: pyarrow's errors have several, and bytes of the file in them."""
    text = " ".join(str(said).split())[:300]
    return text if text.isprintable() else ascii(text)[1:-1]
