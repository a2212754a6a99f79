"""The failure ledger in numbers: how many inputs were lost where and why, and the first few ids of each kind."""

import heapq
import json
from collections import defaultdict
from collections.abc import Iterable

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import FAILURES

EXAMPLES = 5  # ids named per kind, the first in the order of ids, so that merged ledgers name the same


def read_ledger(folder: str) -> list[dict]:
    """`failures.jsonl` as kinds; memory does not grow with its length.

    Returns:
        [{"outcome", "reason", "stage", "count", "examples": [{"id", "message"}]}], most frequent first.

    Raises:
        DamageError: the ledger is missing or a line of it is broken.
    """
    kinds: dict[tuple, int] = defaultdict(int)
    examples: dict[tuple, list[tuple[str, str]]] = defaultdict(list)
    try:
        with storage.open_read(storage.join(folder, FAILURES)) as stream:
            for line in stream:
                row = json.loads(line)
                kind = (str(row["outcome"]), str(row["reason"]), str(row["stage"]))
                kinds[kind] += 1
                named = examples[kind]
                named.append((str(row["id"]), str(row["message"])))
                if len(named) > 64 * EXAMPLES:
                    examples[kind] = heapq.nsmallest(EXAMPLES, named)
    except FileNotFoundError:
        raise DamageError(f"{FAILURES} is missing from {folder}") from None
    except storage.NotAFile:
        raise DamageError(f"{FAILURES} in {folder} is not a regular file") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(f"{FAILURES} in {folder} is damaged: {error}") from error
    rows = (_row(kind, count, examples[kind]) for kind, count in kinds.items())
    return _ordered(rows)


def merge_ledgers(a: list[dict], b: list[dict]) -> list[dict]:
    """The ledger of two disjoint sets of inputs."""
    kinds: dict[tuple, list[dict]] = defaultdict(list)
    for row in (*a, *b):
        kinds[row["outcome"], row["reason"], row["stage"]].append(row)
    return _ordered(
        _row(kind, sum(r["count"] for r in rows), [(e["id"], e["message"]) for r in rows for e in r["examples"]])
        for kind, rows in kinds.items()
    )


def _row(kind: tuple, count: int, named: list[tuple[str, str]]) -> dict:
    examples = [{"id": identity, "message": message} for identity, message in heapq.nsmallest(EXAMPLES, named)]
    return {"outcome": kind[0], "reason": kind[1], "stage": kind[2], "count": count, "examples": examples}


def _ordered(rows: Iterable[dict]) -> list[dict]:
    return sorted(rows, key=lambda r: (-r["count"], r["outcome"], r["reason"], r["stage"]))
