"""Which photograph may be used for what: three sides that share none, decided by the files' own bytes.

A photograph's side depends on nothing but its content, the seed and what else is in the pool, so two copies of one file,
under whatever names, fall on one side. Objects and backgrounds are dealt apart: both kinds of picture are on every side.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence

from maskmill.schemas.errors import InputError

SIDES = ("train", "probe", "evaluation")
# What is evaluated on is whole photographs: it needs no backgrounds.
OBJECT_SHARES = (0.5, 0.25, 0.25)
BACKGROUND_SHARES = (0.65, 0.35, 0.0)
SEED = 7


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A file of the data folder.

    Attributes:
        path: relative to the data folder, with slashes; its identity.
        digest: sha256 of the bytes, hexadecimal.
    """

    path: str
    digest: str


@dataclasses.dataclass(frozen=True)
class Split:
    """Photographs by side.

    Attributes:
        objects: COCO photographs, whose instances are cut out or which are evaluated on.
        backgrounds: ImageNet and BSDS photographs, on which is pasted.
    """

    objects: Mapping[str, tuple[Photograph, ...]]
    backgrounds: Mapping[str, tuple[Photograph, ...]]

    def digest(self) -> str:
        """sha256 over every photograph's bytes, path and side: which data an experiment saw."""
        rows = [
            (kind, side, photograph.path, photograph.digest)
            for kind, of in (("objects", self.objects), ("backgrounds", self.backgrounds))
            for side, photographs in of.items()
            for photograph in photographs
        ]
        return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def split_photographs(data: str, seed: int = SEED) -> Split:
    """Deals the photographs of a data folder (`coco/images`, `imagenet/*/`, `bsds500/images/val`) over the sides.

    Raises:
        InputError: the folder lacks one of the three.
    """
    coco = list_photographs(data, "coco/images")
    other = list_photographs(data, "imagenet") + list_photographs(data, "bsds500/images")
    return Split(deal(coco, OBJECT_SHARES, seed), deal(other, BACKGROUND_SHARES, seed))


def list_photographs(data: str, folder: str) -> list[Photograph]:
    """All JPEG files below a folder, by path."""
    found = []
    for place, _, names in os.walk(os.path.join(data, folder)):
        for name in names:
            if name.lower().endswith((".jpg", ".jpeg")):
                path = os.path.join(place, name)
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                found.append(Photograph(os.path.relpath(path, data).replace(os.sep, "/"), digest))
    if not found:
        raise InputError(
            f"{data} has no photographs in {folder}; set MASKMILL_TEST_DATA to a folder with coco/, imagenet/ and bsds500/"
        )
    return sorted(found, key=lambda photograph: photograph.path)


def deal(photographs: Iterable[Photograph], shares: Sequence[float], seed: int) -> dict[str, tuple[Photograph, ...]]:
    """Photographs by side in these proportions; copies of one file stay together."""
    groups: dict[str, list[Photograph]] = {}
    for photograph in photographs:
        groups.setdefault(photograph.digest, []).append(photograph)
    order = sorted(groups, key=lambda digest: hashlib.sha256(f"{seed}:{digest}".encode()).digest())
    sides: dict[str, tuple[Photograph, ...]] = {}
    begin, share = 0, 0.0
    for side, part in zip(SIDES, shares, strict=True):
        share += part
        end = round(share * len(order))
        sides[side] = tuple(photograph for digest in order[begin:end] for photograph in groups[digest])
        begin = end
    return sides


def shared_photographs(used: Mapping[str, Sequence[str]], digests: Mapping[str, str]) -> dict[str, set[str]]:
    """Photographs that more than one side used.

    Args:
        used: side -> paths of the photographs that its pictures were made of, as the pictures' own records say.
        digests: path -> digest of the file's bytes.

    Returns:
        digest -> the sides, of every photograph on more than one; empty where the split holds.
    """
    sides: dict[str, set[str]] = {}
    for side, paths in used.items():
        for path in paths:
            sides.setdefault(digests[path], set()).add(side)
    return {digest: where for digest, where in sides.items() if len(where) > 1}
