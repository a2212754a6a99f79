"""The report as types: what `report.json` holds, field by field. `schemas/report.schema.json` is generated from this file.

Nothing here computes. A document is built by `pipelines.report.document`, written by `to_json` and shown by
`pipelines.report.page`. Types of the integers that everything follows from are in `pipelines.measuring`.
"""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from maskmill.pipelines.measuring.overlap_stats import Size
from maskmill.pipelines.measuring.series import Kind
from maskmill.pipelines.measuring.statistics import Sums
from maskmill.schemas.manifest import Shard
from maskmill.schemas.mask import Layer

SCHEMA_VERSION = 2

# Annotations beyond the type are JSON Schema's words, as (word, value).
Count = Annotated[int, ("minimum", 0)]
Share = Annotated[float, ("minimum", 0), ("maximum", 1)]
Sha256 = Annotated[str, ("pattern", "^[0-9a-f]{64}$")]
State = Literal["good", "warn", "bad"]


def _or_why(value: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a value, or of null with the reason why there is none."""
    why = {"value": {"type": "null"}, "why": {"type": "string", "minLength": 1}}
    return {
        "oneOf": [
            {"type": "object", "properties": {"value": value}, "required": ["value"], "additionalProperties": False},
            {"type": "object", "properties": why, "required": ["value", "why"], "additionalProperties": False},
        ]
    }


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number, or null with the reason why there is none. Never 0 for want of data."""

    value: float | None
    why: str | None = None
    JSON_SCHEMA: ClassVar[dict[str, Any]] = _or_why({"type": "number"})

    @classmethod
    def of(cls, value: float | None, why: str) -> "Metric":
        """A number, or the reason why there is none."""
        return cls(None, why) if value is None else cls(value)

    @classmethod
    def ratio(cls, numerator: float, denominator: float, why: str) -> "Metric":
        """A quotient, or a reason where it would divide by zero."""
        return cls.of(numerator / denominator if denominator else None, why)


@dataclasses.dataclass(frozen=True)
class Interval:
    """95% percentile interval of a Poisson bootstrap over images: [low, high], or null with the reason."""

    value: tuple[float, float] | None
    why: str | None = None
    JSON_SCHEMA: ClassVar[dict[str, Any]] = _or_why(
        {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    )

    @classmethod
    def of(cls, bounds: tuple[float, float] | None, why: str) -> "Interval":
        """An interval, or the reason why there is none."""
        return cls(None, why) if bounds is None else cls(bounds)


@dataclasses.dataclass(frozen=True)
class AuditSource:
    """The annotation file that ground truth came from, where it is not the records' own."""

    sha256: Sha256
    images_matched: Count
    images_without_entry: Count
    entries_without_image: Count
    size_mismatches: Count
    dropped_annotations: Count


@dataclasses.dataclass(frozen=True)
class Build:
    """Where the numbers come from."""

    dataset: str
    split: str
    counts: dict[str, Count]
    config: dict[str, Any]
    config_digest: str
    plan_digest: str
    layers: list[Layer]
    categories: dict[str, str]
    labels: str
    decoder: dict[str, Any]
    versions: dict[str, str]
    shards: list[Shard]
    audit: AuditSource | None


@dataclasses.dataclass(frozen=True)
class Images:
    """Inputs and what became of them: inputs = written + failed + skipped."""

    inputs: Count
    written: Count
    failed: Count
    skipped: Count
    dropped_annotations: Count
    measured: Count
    annotated: Count
    pixels: Count


@dataclasses.dataclass(frozen=True)
class Instances:
    """Instances that are not crowds, in all and by size, and crowds."""

    all: Count
    crowds: Count
    small: Count
    medium: Count
    large: Count


@dataclasses.dataclass(frozen=True)
class SizeRow:
    """One series on the instances of one size."""

    size: Size
    instances: Count
    abo: Metric
    average_recall: Metric


@dataclasses.dataclass(frozen=True)
class SeriesRow:
    """A layer, all layers of a generator (NAME-*), or all layers but ground truth (all)."""

    name: str
    kind: Kind
    generators: list[str]
    layers: list[str]
    abo: Metric
    interval: Interval
    class_mean_abo: Metric
    recall: Annotated[list[Metric], ("minItems", 10), ("maxItems", 10)]
    average_recall: Metric
    by_size: Annotated[list[SizeRow], ("minItems", 3), ("maxItems", 3)]
    best_iou_hist: Annotated[list[Count], ("minItems", 20), ("maxItems", 20)] | None
    masks_per_image: Metric


@dataclasses.dataclass(frozen=True)
class Kept:
    """ABO with the first k masks, and its expectation with k masks drawn at random."""

    masks: Annotated[int, ("minimum", 1)] | Literal["all"]
    first: Metric
    drawn: Metric


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """What one layer's masks are like."""

    name: str
    generator: str
    masks: Count
    masks_per_image: Metric
    most_masks: Metric
    images_without: Count
    ranked: bool
    coverage: Metric
    overlap: Metric
    mean_area: Metric
    fragments: Metric
    duplicates: Metric
    masks_hist: list[Count]
    coverage_hist: list[Count]
    area_hist: list[Count]
    kept: list[Kept]


@dataclasses.dataclass(frozen=True)
class CategoryRow:
    """A category's instances and, per series, their ABO."""

    id: int
    name: str
    instances: Count
    abo: list[Metric]


@dataclasses.dataclass(frozen=True)
class BudgetABO:
    """ABO with at most so many masks of an image."""

    masks: Annotated[int, ("minimum", 1)] | Literal["all"]
    abo: Metric


@dataclasses.dataclass(frozen=True)
class RankedLayer:
    """A layer among the others at equal numbers of masks: the first k where it ranks its masks, else k drawn at random.

    `interval` is of its ABO at the ranking's budget; `lead` how far that is above the next layer's, over the same images.
    """

    name: str
    generator: str
    ranked: bool
    masks_per_image: Metric
    budgets: list[BudgetABO]
    abo: Metric
    interval: Interval
    lead: Metric
    lead_interval: Interval
    recall_50: Metric
    recall_70: Metric
    average_recall: Metric


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Which layer to train on: layers at one budget of masks, the best first; ground truth apart, as the bound of all."""

    budget: Annotated[int, ("minimum", 1)]
    layers: list[RankedLayer]
    references: list[RankedLayer]
    train: list[str]


@dataclasses.dataclass(frozen=True)
class ObjectMap:
    """Where objects lie: per cell of the picture, from its upper left, the share of instances whose box is over it."""

    share: list[list[Share]]


@dataclasses.dataclass(frozen=True)
class RepeatedPictures:
    """Pictures whose files are equal: of `looked_at` distinct ones (all, or a sample), those in several records.

    `records` are those too many; `ids` the first of them, picture by picture.
    """

    looked_at: Count
    all_looked_at: bool
    pictures: Count
    records: Count
    ids: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Row i, column j: mean over masks of layer i of the best IoU with any mask of layer j. Only without ground truth."""

    images: Count
    layers: list[str]
    mean_best_iou: list[list[Metric]]


@dataclasses.dataclass(frozen=True)
class Example:
    """An image that the page shows, and the mean best IoU of its instances in one layer."""

    id: str
    instances: Count
    mean_best_iou: Metric


@dataclasses.dataclass(frozen=True)
class LayerExamples:
    """The images shown under every layer, as this layer fits them."""

    layer: str
    images: list[Example]


@dataclasses.dataclass(frozen=True)
class ObjectExample:
    """An object that the page shows: its image, its annotation's id, and its best IoU in one layer."""

    id: str
    annotation: int
    best_iou: Share


@dataclasses.dataclass(frozen=True)
class CategoryExamples:
    """Some objects of a category, from hard to easy, of those in the images drawn at random."""

    category: int
    looked_at: Count
    objects: list[ObjectExample]


@dataclasses.dataclass(frozen=True)
class Examples:
    """The images shown.

    `by_layer` are the same few of every layer, from hard to easy; the others are of `layer`: its extremes and its middle, and
    objects of the most frequent categories.
    """

    layer: str
    by_layer: list[LayerExamples]
    by_category: list[CategoryExamples]
    worst: list[Example]
    median: list[Example]
    best: list[Example]


@dataclasses.dataclass(frozen=True)
class LedgerExample:
    """One input that gave no record."""

    id: str
    message: str


@dataclasses.dataclass(frozen=True)
class LedgerRow:
    """Inputs lost in one way, and the first of them."""

    outcome: Literal["failed", "skipped"]
    reason: str
    stage: str
    count: Annotated[int, ("minimum", 1)]
    examples: list[LedgerExample]


@dataclasses.dataclass(frozen=True)
class Stage:
    """Times of one stage. Bin k of the histogram holds images that took from 2**(k/4) microseconds on."""

    stage: str
    images: Count
    total_us: Count
    max_us: Count
    hist: dict[str, Count]
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    max_ms: float | None


@dataclasses.dataclass(frozen=True)
class SlowImage:
    """One of the slowest images."""

    id: str
    ms: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the build has taken so far, attempts that came to nothing included: time of cores inside parts, bytes of pictures
    and records, and requests to gs://, class A (writes and lists) and class B (reads), with their list price."""

    parts: Count
    core_hours: float
    read_bytes: Count
    written_bytes: Count
    class_a: Count
    class_b: Count
    request_dollars: float


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Wall times and cost; the only section that differs between two builds of the same data."""

    stages: list[Stage]
    slowest: list[SlowImage]
    cost: Cost | None


@dataclasses.dataclass(frozen=True)
class Check:
    """A question asked of the numbers, and its answer; `layers` are those that a doubt is about, where it is about some."""

    name: str
    state: State
    text: str
    layers: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Every number of a report but the verdict on them."""

    build: Build
    images: Images
    instances: Instances
    ranking: Ranking
    series: list[SeriesRow]
    layers: list[LayerRow]
    categories: list[CategoryRow]
    agreement: Agreement | None
    object_map: ObjectMap | None
    repeats: RepeatedPictures
    examples: Examples
    failures: list[LedgerRow]
    statistics: Sums
    throughput: Throughput
    recall_thresholds: list[Share]
    iou_edges: list[Share]


@dataclasses.dataclass(frozen=True)
class Document(Numbers):
    """report.json: every number of a mask-quality report."""

    checks: list[Check]
    verdict: State
    schema_version: Annotated[int, ("const", SCHEMA_VERSION)] = SCHEMA_VERSION


def to_json(value: Any) -> Any:
    """A dataclass of this module, or what it is made of, as JSON-able values; a reason that is not needed is left out."""
    if dataclasses.is_dataclass(value):
        fields = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {f.name: to_json(own) for f, own in fields if own is not None or f.default is not None}
    if isinstance(value, dict):
        return {name: to_json(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(own) for own in value]
    return value
