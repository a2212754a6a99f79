"""Several splits beside one another, opened by TFDS as one data set: `--out "coco-fh/{split}"`.

A split stays a folder of its own, coco-fh/train and coco-fh/val, with its manifest, its resumption and its report: nothing that
identifies a build knows of the others. Above them lie TFDS' two files and the layers' names, made from the manifests below, and
a mark per split, `split-NAME.json`, which says what the splits have in common. Whatever finishes a build of a marked folder
makes the files anew, so that they are true also after `retry`, and after a job that finished by itself on its cluster.
"""

import json

from maskmill.pipelines.driver import tfds_metadata
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.generators import parse_specs
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.schemas.manifest import (
    FEATURES_JSON,
    INFO_JSON,
    LAYER_NAMES,
    Manifest,
    load_manifest,
    marked_splits,
    split_mark,
)

PATTERN = "{split}"
_LIMIT = 1 << 20  # bytes of a mark


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
        UsageError: the splits that are there have another name, other layers, or other features.
    """
    head, split = above(folder)
    own = {
        "name": config.name,
        "layers": [layer.name for generator in parse_specs(list(config.masks)) for layer in generator.layers],
        "masks_only": config.masks_only,
    }
    for other in marked_splits(head):
        if other != split and (theirs := _read_mark(head, other)) != own:
            differing = [
                f"{key}: {theirs.get(key)} there, {own[key]} here" for key in own if theirs.get(key) != own[key]
            ]
            raise UsageError(
                f"{head} holds the split {other}, and splits that open together have the same --name, --masks and "
                f"--masks-only; {'; '.join(differing)}. Choose another --out, or remove {storage.join(head, split_mark(other))} "
                "if that split is given up"
            )
    storage.write_bytes(storage.join(head, split_mark(split)), json.dumps(own, sort_keys=True).encode() + b"\n")


def _read_mark(head: str, split: str) -> dict:
    path = storage.join(head, split_mark(split))
    try:
        content = json.loads(storage.read_whole(path, _LIMIT))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DamageError(f"{path} is damaged ({error}); remove it and run the build of {split} again") from error
    return content if isinstance(content, dict) else {}


def join_splits(folder: str) -> None:
    """Makes the files above a split anew, from the manifests of all that are finished. Nothing where it is alone.

    Two builds that finish at once both look again after writing, so the later look finds both.
    """
    head, own = above(folder)
    if head in ("", "gs:/") or not storage.exists(storage.join(head, split_mark(own))):
        return
    written: list[str] | None = None
    while True:
        manifests = _finished(head)
        digests = [manifest.digest for manifest in manifests.values()]
        if digests == written:
            return
        for name, data in files_of(manifests).items() if manifests else ():
            storage.write_bytes(storage.join(head, name), data)
        if not manifests:
            storage.remove(storage.join(head, INFO_JSON))
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


def _finished(head: str) -> dict[str, Manifest]:
    found = {}
    for split in marked_splits(head):
        try:
            found[split] = load_manifest(storage.join(head, split))
        except (InputError, DamageError):  # not finished; what is damaged says so to whoever opens it
            continue
    return found
