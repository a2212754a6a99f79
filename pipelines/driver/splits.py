"""Several splits beside one another, opened by TFDS as one data set: `--out "coco-fh/{split}"`.

A split stays a folder of its own, coco-fh/train and coco-fh/val, with its manifest, its resumption and its report: nothing that
identifies a build knows of the others. Above them lie TFDS' two files and the layers' names, made from the manifests below, a
mark per split, `split-NAME.json`, and `SHA256SUMS` of these. Whatever finishes a build of a marked folder makes the files
anew, so that they are true also after `retry`, and after a job that finished by itself on its cluster.
"""

import json
import logging
from typing import Any

from maskmill.pipelines.dataset.checksums import file_of, write_checksums
from maskmill.pipelines.driver import tfds_metadata
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.generators import parse_specs
from maskmill.pipelines.parts.plan import load_plan
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.schemas.manifest import (
    CHECKSUMS,
    FEATURES_JSON,
    INFO_JSON,
    LAYER_NAMES,
    Manifest,
    load_manifest,
    marked_splits,
    split_mark,
)

PATTERN = "{split}"
_LOG = logging.getLogger("maskmill")


def place_of(out: str, split: str) -> str:
    """The folder of a split: `out` with its name in place of a last `{split}`.

    Raises:
        UsageError: `{split}` stands elsewhere than as the last folder, or nothing is above it.
    """
    if PATTERN not in out:
        return out
    above = out.removesuffix("/").removesuffix(PATTERN)
    if PATTERN in above or not above.endswith("/") or above.strip("/") in ("", "gs:"):
        raise UsageError(f'--out {out!r}: {PATTERN} stands for the last folder, as in --out "coco-fh/{PATTERN}"')
    return above + split


def above(folder: str) -> tuple[str, str]:
    """(folder above, name of the last folder)."""
    head, _, name = folder.rstrip("/").rpartition("/")
    return head, name


def mark_split(folder: str, config: BuildConfig) -> None:
    """Notes that a folder is one of several splits, before it is built.

    Raises:
        UsageError: the splits that are there, or are being built, have another name, other layers, or other features.
    """
    head, split = above(folder)
    own = _common(config.name, _layers(config), config.masks_only)
    for other in (name for name in marked_splits(head) if name != split):
        theirs = _of_folder(storage.join(head, other))
        if theirs is not None and theirs != own:
            differing = [f"{key}: {theirs[key]} there, {own[key]} here" for key in own if theirs[key] != own[key]]
            raise UsageError(
                f"{head} holds the split {other}, and splits that open together have the same --name, --masks and "
                f"--masks-only; {'; '.join(differing)}. Choose another --out, or remove {storage.join(head, other)}"
            )
    storage.write_bytes(storage.join(head, split_mark(split)), _mark(split))


def _mark(split: str) -> bytes:
    return json.dumps({"split": split}).encode() + b"\n"


def _common(name: str, layers: list[str], masks_only: bool) -> dict[str, Any]:
    """What splits that open together have in common."""
    return {"name": name, "layers": layers, "masks_only": masks_only}


def _layers(config: BuildConfig) -> list[str]:
    return [layer.name for generator in parse_specs(list(config.masks)) for layer in generator.layers]


def _of_manifest(manifest: Manifest) -> dict[str, Any]:
    names = [layer.name for layer in manifest.layers]
    return _common(manifest.dataset, names, bool(manifest.config.get("masks_only", False)))


def _of_folder(folder: str) -> dict[str, Any] | None:
    """The same of a split that is finished or planned; None of one that is neither."""
    try:
        return _of_manifest(load_manifest(folder))
    except (InputError, DamageError):
        plan = load_plan(folder)
    if plan is None:
        return None
    return _common(plan.requested.name, _layers(plan.requested), plan.requested.masks_only)


def join_splits(folder: str) -> None:
    """Makes the files above a split anew, from the manifests of all that are finished. Nothing where it is alone.

    Two builds that finish at once both look again after writing, so the later look finds both.
    """
    head, own = above(folder)
    if head in ("", "gs:/") or not storage.exists(storage.join(head, split_mark(own))):
        return
    written: list[str] | None = None
    while True:
        manifests = _finished(head, say=written is None)
        digests = [manifest.digest for manifest in manifests.values()]
        if digests == written:
            return
        files = files_of(manifests) if manifests else {}
        for name, data in files.items():
            storage.write_bytes(storage.join(head, name), data)
        if files:
            files |= {split_mark(split): _mark(split) for split in manifests}
            write_checksums(head, {name: file_of(name, data).sha256 for name, data in files.items()})
        else:
            storage.remove_all(storage.join(head, name) for name in (INFO_JSON, CHECKSUMS))
        written = digests


def files_of(manifests: dict[str, Manifest]) -> dict[str, bytes]:
    """TFDS' files for several splits: name -> bytes. Splits by their folders' names."""
    first = next(iter(manifests.values()))
    return {
        FEATURES_JSON: tfds_metadata.features_json(
            len(first.layers), masks_only=bool(first.config.get("masks_only", False))
        ),
        LAYER_NAMES: tfds_metadata.layer_names(first),
        INFO_JSON: tfds_metadata.dataset_info_json(manifests),
    }


def _finished(head: str, *, say: bool) -> dict[str, Manifest]:
    """The finished splits by their folders' names, those that have in common with the first what they must have."""
    found: dict[str, Manifest] = {}
    for split in marked_splits(head):
        try:
            manifest = load_manifest(storage.join(head, split))
        except (InputError, DamageError):  # not finished; what is damaged says so to whoever opens it
            continue
        first = next(iter(found.values()), manifest)
        if _of_manifest(manifest) == _of_manifest(first):
            found[split] = manifest
        elif say:  # two builds that began at the same moment
            _LOG.warning(
                "%s has other layers, or another name, than %s: TFDS will not open it with them", split, list(found)
            )
    return found
