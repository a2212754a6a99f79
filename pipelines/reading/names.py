"""Names of files as strangers chose them, and as this project spells them.

An id must survive JSON, Arrow, HTML and a terminal, so it is Unicode that UTF-8 can write. A name on disk or in an archive
is bytes: what is not UTF-8 in it reaches Python as lone surrogates (PEP 383), and an annotation file can hold any other
surrogate. Both are spelled with a backslash, as Python itself would show them, and the file is still opened by its own name.
"""

import re

from maskmill.schemas import storage

_SURROGATE = re.compile("[\ud800-\udfff]")
_LOOKS_SPELLED = re.compile(r"\\(?=x[0-9a-f]{2}|ud[89a-f][0-9a-f]{2})")


def spelled(name: str) -> str:
    r"""A name as the id that records, tables and ledger carry: itself, but for what UTF-8 cannot write.

    A byte that is not UTF-8 becomes `\xNN`, any other lone surrogate `\uNNNN`. Two names never get one spelling: a
    backslash that would be read as the start of such a piece becomes `\x5c`.
    """
    if "\\" in name:
        name = _LOOKS_SPELLED.sub(r"\\x5c", name)
    return name if name.isascii() else escape_surrogates(name)


def escape_surrogates(text: str) -> str:
    r"""Text with its lone surrogates written out, `\xNN` for bytes that were not UTF-8 and `\uNNNN` for others."""
    return _SURROGATE.sub(_escape, text)


def _escape(found: re.Match) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def member_path(name: str) -> str:
    """The name of an archive's member as a path without `.` and empty pieces: `./a//b.jpg` is `a/b.jpg`.

    Raises:
        ValueError: it could leave its folder, or names nothing.
    """
    path = "/".join(part for part in storage.check_relative(name).split("/") if part not in ("", "."))
    if not path:
        raise ValueError(f"unsafe path {name[:200]!r}: it names no file")
    return path


def is_hidden(path: str) -> bool:
    """Whether a file or a folder on the way to it begins with a dot."""
    return path.startswith(".") or "/." in path
