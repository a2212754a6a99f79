"""Parquet as Hugging Face publishes data sets of pictures: a column `image`, of {bytes, path} or of bytes, and a column `label`.

Listing reads the footers and the columns of labels and paths, never the pictures.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from maskmill.pipelines.reading.class_labels import as_class
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.names import spelled
from maskmill.pipelines.reading.row_group import MAX_ROW_GROUP_BYTES, Cell, open_parquet
from maskmill.pipelines.reading.shard_files import Classes, Facts, InShards, Listed, ShardFile, Shards, find_shards
from maskmill.schemas.errors import InputError, one_line

PICTURE_COLUMNS = ("image", "img", "jpg", "jpeg", "png")  # in the order in which one of several is chosen
LABEL_COLUMNS = ("label", "labels", "cls")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns of a file are read.

    Attributes:
        picture: the leaf that holds the bytes, such as `image.bytes`.
        path: the leaf that holds the file's name, or "".
        label: the column of classes, or "".
        names: of the classes, by number; () where the file has none.
    """

    picture: str
    path: str
    label: str
    names: tuple[str, ...]


def find_columns(schema: Any, path: str) -> Columns:
    """The columns of an Arrow schema that hold picture, file name and class.

    Raises:
        InputError: none holds pictures, or it is not clear which of several.
    """
    import pyarrow.types as kinds

    def is_bytes(kind: Any) -> bool:
        return kinds.is_binary(kind) or kinds.is_large_binary(kind)

    def is_class(name: str) -> bool:
        kind = schema.field(name).type
        return kinds.is_integer(kind) or kinds.is_string(kind) or kinds.is_large_string(kind)

    features = _features(schema)
    pictures: dict[str, tuple[str, str]] = {}
    for field in schema:
        if kinds.is_struct(field.type) and (at := field.type.get_field_index("bytes")) >= 0:
            if is_bytes(field.type.field(at).type):
                has_path = field.type.get_field_index("path") >= 0
                pictures[field.name] = (f"{field.name}.bytes", f"{field.name}.path" if has_path else "")
        elif is_bytes(field.type):
            pictures[field.name] = (field.name, "")
    declared = [n for n in pictures if isinstance(features.get(n), dict) and features[n].get("_type") == "Image"]
    known = [n for n in PICTURE_COLUMNS if n in pictures]
    found = next((names for names in (declared, known, list(pictures)) if names), [])
    if not found:
        raise InputError(
            f"{path} has no column of pictures; its columns are {_listing(schema.names)}, and one of them must hold the "
            "files' bytes, plain or as a struct with a field 'bytes'"
        )
    if len(found) > 1 and not (known and known[0] in found):
        raise InputError(f"{path} has several columns of pictures ({_listing(found)}); name the one to take 'image'")
    picture, file_name = pictures[found[0] if len(found) == 1 else known[0]]
    classes = [
        n for n in schema.names if isinstance(features.get(n), dict) and features[n].get("_type") == "ClassLabel"
    ]
    plain = [n for n in LABEL_COLUMNS if n in schema.names and is_class(n)]
    label = next((n for n in plain if n in classes or not classes), classes[0] if len(classes) == 1 else "")
    names = features[label].get("names") if label in classes else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = []
    return Columns(picture, file_name, label, tuple(names))


def _features(schema: Any) -> dict:
    """What the `datasets` library wrote of the columns, or {}."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return features if isinstance(features, dict) else {}
    except (TypeError, KeyError, ValueError, RecursionError):
        return {}


def _listing(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


@dataclasses.dataclass
class Parquet(InShards):
    """The `parquet` data set.

    Attributes:
        images: folder of .parquet files, one of them, or a pattern.
    """

    def find(self) -> Shards:
        shards, left = find_shards(self.images, ".parquet files", lambda name: name.endswith(".parquet"))
        return Shards(shards, left, list_file)

    def conclude(self, facts: Facts) -> None:
        self.labels = facts.labels(f"the column {facts.classes.label if facts.classes else ''}")


def list_file(shard: ShardFile) -> list[Classes | Listed]:
    """The classes that a file states, and its rows."""
    try:
        with open_parquet(shard.path) as file:
            columns = find_columns(file.schema_arrow, shard.path)
            return [Classes(columns.label, columns.names), *_list_rows(shard, file, columns)]
    except (ValueError, NotImplementedError, KeyError) as error:  # pyarrow's
        raise InputError(f"{shard.path} is damaged or no parquet file: {one_line(error)}") from error


def _list_rows(shard: ShardFile, file: Any, columns: Columns) -> Iterator[Listed]:
    number = 0
    for group in range(file.num_row_groups):
        facts = file.metadata.row_group(group)
        size = _bytes_of(facts, columns.picture)
        if size > MAX_ROW_GROUP_BYTES:
            raise InputError(
                f"{shard.path} has {facts.num_rows} pictures of {size >> 20} MB in one row group, more than the "
                f"{MAX_ROW_GROUP_BYTES >> 20} MB that are read at once; write it again in smaller ones, with "
                "pyarrow.parquet.write_table(..., row_group_size=100)"
            )
        wanted = [name for name in (columns.path, columns.label) if name]
        table = file.read_row_group(group, columns=wanted, use_threads=False) if wanted else None
        top = columns.path.split(".")[0]
        files = table.column(top).to_pylist() if table is not None and columns.path else None
        classes = table.column(columns.label).to_pylist() if table is not None and columns.label else None
        for row in range(facts.num_rows):
            name = (files[row] or {}).get("path") if files else None
            last = re.split(r"[/\\]", name)[-1] if name else ""
            identity = f"{shard.name}/{number:08d}" + (f"/{spelled(last)}" if last else "")
            number += 1
            try:
                label, synset, text = as_class(classes[row] if classes else None, columns.names)
            except ValueError as error:
                yield Refusal(identity, "list", "bad_annotation", f"its class is {error}")
                continue
            at = Cell(shard.path, group, row, columns.picture)
            yield Input(identity, at, "", label, synset, text, together=f"{shard.name}/{group}")


def _bytes_of(row_group: Any, leaf: str) -> int:
    """Unpacked bytes of a leaf column."""
    chunks = (row_group.column(i) for i in range(row_group.num_columns))
    return next((chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == leaf), 0)
