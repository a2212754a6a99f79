"""`shards.parquet`: the shards of a data set that has more of them than its manifest should list.

A file of its own because a hundred thousand shards are 25 MB of JSON. The manifest vouches for what the table says, not for
its bytes, which depend on the version of pyarrow.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

SHARD_TABLE = "shards.parquet"
MAX_SHARDS = 1_000_000


def table_bytes(rows: Sequence[Mapping[str, str | int]], columns: Mapping[str, type]) -> bytes:
    """Rows as a parquet file; `columns` are their names and types, `str` or `int`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string() if kind is str else pa.int64()) for name, kind in columns.items()])
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), target, compression="zstd")
    return target.getvalue()


def table_rows(data: bytes, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The inverse, of the columns named. Raises ValueError where it is no such file, or one of more than `MAX_SHARDS`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if file.metadata.num_rows > MAX_SHARDS:  # a small file can hold a billion rows
            raise ValueError(f"it has {file.metadata.num_rows} rows, and no data set more than {MAX_SHARDS} shards")
        rows: list[dict[str, Any]] = file.read(list(columns), use_threads=False).to_pylist()
    except (OSError, ValueError, KeyError, pa.ArrowException, MemoryError, OverflowError) as error:
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0][:300]) from error
    return rows
