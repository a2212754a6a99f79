"""Two data sets of the same pictures, image by image: which masks fit better, and how sure that is.

The difference is paired: both sides are weighed with the same bootstrap draws, so what is common to both (hard images)
cancels, and a small but steady gain shows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from maskmill.pipelines.dataset.images_table import ImagesTable, iou_units_column
from maskmill.pipelines.measuring.bootstrap import REPLICATES, image_key, interval, weights
from maskmill.pipelines.measuring.series import series_of, widest
from maskmill.pipelines.parts.plan import difference
from maskmill.pipelines.report.document import NO_INSTANCES, metric, metric_pair, ratio
from maskmill.schemas.errors import InputError, UsageError
from maskmill.schemas.manifest import Manifest
from maskmill.schemas.reader import Dataset
from maskmill.schemas.stats import IOU_UNIT

MOVERS = 10
DELTA_BINS = 40  # of 0.05, from -1 to 1
_CHUNK = 4096


def _names(manifest: Manifest) -> list[str]:
    return [one.name for one in series_of(manifest.layers)]


def pair_series(old: Manifest, new: Manifest, asked: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Which layers are compared: those asked for as OLD=NEW, else those of one name, else the widest of each.

    Raises:
        UsageError: a pair that is not OLD=NEW, or names what there is not.
    """
    pairs = []
    for text in asked:
        left, _, right = text.partition("=")
        right = right or left
        for name, manifest, side in ((left, old, "OLD"), (right, new, "NEW")):
            if name not in _names(manifest):
                raise UsageError(f"--layers {text!r}: {side} has no {name!r}; it has {', '.join(_names(manifest))}")
        pairs.append((left, right))
    if not pairs:
        both = set(_names(new))
        pairs = [(name, name) for name in _names(old) if name in both]
    return pairs or [(_names(old)[widest(old.layers)], _names(new)[widest(new.layers)])]


@dataclasses.dataclass(frozen=True)
class _Table:
    """What a comparison needs of `images.parquet`: id -> row, and columns."""

    rows: dict[str, int]
    columns: dict[str, np.ndarray]


def _read(dataset: Dataset, names: Sequence[str]) -> _Table:
    wanted = ["id", "instances", *dict.fromkeys(iou_units_column(name) for name in names)]
    columns = ImagesTable(dataset.folder).columns(wanted)
    return _Table({identity: i for i, identity in enumerate(columns.pop("id"))}, columns)


def compare(old: Dataset, new: Dataset, asked: Sequence[str] = ()) -> dict:
    """The comparison as a JSON-able document.

    Args:
        old, new: finished builds of the same pictures, or of some that both hold.
        asked: pairs of layers, OLD=NEW.

    Returns:
        Counts of images, a row per pair of layers with both ABOs over the images in both, their difference with its
        interval, and the images that moved most; and how the configurations differ.

    Raises:
        InputError: no picture is in both. UsageError: see `pair_series`.
    """
    pairs = pair_series(old.manifest, new.manifest, asked)
    left, right = _read(old, [a for a, _ in pairs]), _read(new, [b for _, b in pairs])
    ids = sorted(set(left.rows) & set(right.rows))
    if not ids:
        raise InputError(f"{old.folder} and {new.folder} have no picture in common: their ids all differ")
    at_left = np.asarray([left.rows[i] for i in ids])
    at_right = np.asarray([right.rows[i] for i in ids])
    instances = left.columns["instances"][at_left].astype(np.int64)
    same_truth = instances == right.columns["instances"][at_right]
    kept = same_truth & (instances > 0)
    keys = np.asarray([image_key(i) for i in ids], np.int64)[kept]
    names = [i for i, keep in zip(ids, kept.tolist(), strict=True) if keep]
    rows = []
    for a, b in pairs:
        before = left.columns[iou_units_column(a)][at_left][kept].astype(np.int64)
        after = right.columns[iou_units_column(b)][at_right][kept].astype(np.int64)
        rows.append({"old": a, "new": b, **difference_of(names, keys, instances[kept], before, after)})
    return {
        "images": {
            "old": len(left.rows),
            "new": len(right.rows),
            "both": len(ids),
            "other_ground_truth": int((~same_truth).sum()),
            "compared": len(names),
        },
        "pairs": rows,
        "configuration": _configuration(old.manifest, new.manifest),
    }


def difference_of(
    names: list[str], keys: np.ndarray, instances: np.ndarray, before: np.ndarray, after: np.ndarray
) -> dict:
    """How n images differ between two sides.

    Args:
        names: their ids.
        keys: int64[n], of `image_key`.
        instances: int64[n], each at least 1.
        before, after: int64[n], sums of best IoUs in units of 1 / `IOU_UNIT`.

    Returns:
        Both ABOs, their difference and its interval, a histogram of the images' differences, those that moved most.
    """
    total = int(instances.sum())
    delta = after - before
    numerators, denominators = [0] * REPLICATES, [0] * REPLICATES
    for start in range(0, len(keys), _CHUNK):
        drawn = weights(keys[start : start + _CHUNK])
        part = slice(start, start + _CHUNK)
        numerators = [x + y for x, y in zip(numerators, (delta[part] @ drawn).tolist(), strict=True)]
        denominators = [x + y for x, y in zip(denominators, (instances[part] @ drawn).tolist(), strict=True)]
    bounds = interval(numerators, denominators, IOU_UNIT) if len(keys) > 1 else None
    mean = delta / np.maximum(instances, 1) / IOU_UNIT
    bins = np.clip(np.floor((mean + 1) * DELTA_BINS / 2).astype(int), 0, DELTA_BINS - 1)
    order = sorted(range(len(names)), key=lambda i: (-abs(mean[i]), names[i]))[:MOVERS]
    return {
        "old_abo": ratio(int(before.sum()) / IOU_UNIT, total, NO_INSTANCES),
        "new_abo": ratio(int(after.sum()) / IOU_UNIT, total, NO_INSTANCES),
        "difference": ratio(int(delta.sum()) / IOU_UNIT, total, NO_INSTANCES),
        "interval": metric_pair(bounds, NO_INSTANCES if not total else "it takes more than one annotated image"),
        "better": int((delta > 0).sum()),
        "worse": int((delta < 0).sum()),
        "equal": int((delta == 0).sum()),
        "difference_hist": np.bincount(bins, minlength=DELTA_BINS).tolist(),
        "movers": [
            {
                "id": names[i],
                "instances": int(instances[i]),
                "old": metric(float(before[i] / instances[i] / IOU_UNIT), ""),
                "new": metric(float(after[i] / instances[i] / IOU_UNIT), ""),
                "difference": metric(float(mean[i]), ""),
            }
            for i in order
            if delta[i]
        ],
    }


def _configuration(old: Manifest, new: Manifest) -> list[str]:
    """Lines that say how two builds differ in what was asked for, made with and found."""
    lines = [*difference(old.config, new.config), *difference(old.versions, new.versions)]
    sides = [{layer.name: layer.params for layer in manifest.layers} for manifest in (old, new)]
    lines += difference({f"layer {k}": v for k, v in sides[0].items()}, {f"layer {k}": v for k, v in sides[1].items()})
    lines += difference({"decoder": old.decoder.get("name")}, {"decoder": new.decoder.get("name")})
    lines += difference(
        {f"counts {k}": v for k, v in old.counts.items()}, {f"counts {k}": v for k, v in new.counts.items()}
    )
    return [line.strip() for line in lines]


def compare_lines(result: dict) -> list[str]:
    """A comparison in text."""
    n = result["images"]
    lines = [
        f"{n['both']:,} images in both (old {n['old']:,}, new {n['new']:,}), {n['compared']:,} compared: "
        f"with instances, and equally many on both sides (others {n['other_ground_truth']:,})"
    ]
    label = {
        (r["old"], r["new"]): r["old"] if r["old"] == r["new"] else f"{r['old']} -> {r['new']}" for r in result["pairs"]
    }
    width = max(5, *(len(text) for text in label.values()))
    lines.append(
        f"{'layer':<{width}}  {'old':>6}  {'new':>6}  {'difference':>10}  {'95% interval':>17}  {'better':>7}  {'worse':>7}"
    )
    for row in result["pairs"]:
        bounds = row["interval"]["value"]
        between = "none" if bounds is None else f"{bounds[0]:+.4f} {bounds[1]:+.4f}"
        cells = ["none" if row[k]["value"] is None else f"{row[k]['value']:.4f}" for k in ("old_abo", "new_abo")]
        delta = "none" if row["difference"]["value"] is None else f"{row['difference']['value']:+.4f}"
        lines.append(
            f"{label[row['old'], row['new']]:<{width}}  {cells[0]:>6}  {cells[1]:>6}  {delta:>10}  {between:>17}  "
            f"{row['better']:>7,}  {row['worse']:>7,}"
        )
    last = result["pairs"][-1]
    if last["movers"]:
        lines.append(f"moved most ({label[last['old'], last['new']]}, mean best IoU of an image's instances):")
        lines += [
            f"  {m['difference']['value']:+.3f}  {m['old']['value']:.3f} -> {m['new']['value']:.3f}  {m['id'][:120]}"
            for m in last["movers"]
        ]
    lines.append("configurations are equal" if not result["configuration"] else "configurations differ:")
    lines += [f"  {line[:300]}" for line in result["configuration"]]
    return lines
