"""Tars and zips of tiny pictures, and the command as its users run it."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile

import cv2
import numpy as np


def picture(shade: int = 0) -> bytes:
    """A PNG of 8 x 8 pixels."""
    return cv2.imencode(".png", np.full((8, 8, 3), shade, np.uint8))[1].tobytes()


def tar_bytes(files: dict[str, bytes], **options) -> bytes:
    """A tar as Python writes it, with the files in order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, data in files.items():
            archive.addfile(member(name, len(data)), io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, size: int = 0, **fields) -> tarfile.TarInfo:
    """A tar's member."""
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def zip_bytes(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as Python writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def flip(data: bytes, bit: int) -> bytes:
    """The same bytes with one bit the other way round."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def maskmill(
    *arguments,
    program: str = "from maskmill.pipelines.commands.cli import main; sys.exit(main())",
    timeout: float = 120,
):
    """Runs the command in a process of its own; returns what `subprocess.run` does, with text."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {program}", *map(os.fspath, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def build(images, out, *more, **how):
    """`maskmill build` of a folder or archive with the cheapest masks, in this one process."""
    options = () if "--dataset" in more else ("--dataset", "folder")
    where = ("--images", images, "--out", out, "--masks", "grid(n=2)", "--workers", "0", "--max-failure-rate", "1")
    return maskmill("build", *options, *where, *more, **how)
