"""The failure ledger in numbers: how many inputs were lost where and why, and the first few ids of each kind."""

import heapq
import json
from collections import defaultdict
from typing import Literal

from maskmill.pipelines.report.model import LedgerExample, LedgerRow
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import FAILURES

EXAMPLES = 5  # ids named per kind, the first in the order of ids
Outcome = Literal["failed", "skipped"]
_Kind = tuple[Outcome, str, str]


def read_ledger(folder: str) -> list[LedgerRow]:
    """`failures.jsonl` as kinds; memory does not grow with its length.

    Returns:
        One row per outcome, reason and stage, most frequent first.

    Raises:
        DamageError: the ledger is missing or a line of it is broken.
    """
    kinds: dict[_Kind, int] = defaultdict(int)
    examples: dict[_Kind, list[tuple[str, str]]] = defaultdict(list)
    try:
        with storage.open_read(storage.join(folder, FAILURES)) as stream:
            for line in stream:
                row = json.loads(line)
                outcome: Outcome = "skipped" if row["outcome"] == "skipped" else "failed"
                kind = (outcome, str(row["reason"]), str(row["stage"]))
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
    rows = [_row(kind, count, examples[kind]) for kind, count in kinds.items()]
    return sorted(rows, key=lambda r: (-r.count, r.outcome, r.reason, r.stage))


def _row(kind: _Kind, count: int, named: list[tuple[str, str]]) -> LedgerRow:
    outcome, reason, stage = kind
    return LedgerRow(outcome, reason, stage, count, [LedgerExample(*e) for e in heapq.nsmallest(EXAMPLES, named)])
