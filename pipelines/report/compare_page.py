"""A comparison as a page, with pictures of the images that moved most."""

from collections.abc import Callable, Mapping

from markupsafe import Markup

from maskmill.pipelines.dataset.random_access import read_examples
from maskmill.pipelines.measuring.series import series_of
from maskmill.pipelines.report import figures
from maskmill.pipelines.report.compare import DELTA_BINS, Comparison, Pair
from maskmill.pipelines.report.templating import MAX_BYTES, clean, environment, resource
from maskmill.pipelines.report.thumbnails import Panels, Thumbnail, blank, draw_match, encode_within
from maskmill.schemas.errors import ImageError
from maskmill.schemas.example import ImageExample
from maskmill.schemas.mask import MaskSet
from maskmill.schemas.reader import Dataset

FIGURE_LINES = 16
PAIRS_DRAWN, MOVERS_DRAWN = 4, 4
_SLACK = 20_000  # bytes of a page that pictures leave to what refers to them
Key = tuple[str, str]  # a pair's label, a record's id


def draw_movers(old: Dataset, new: Dataset, result: Comparison, budget_bytes: int) -> dict[Key, Thumbnail]:
    """The images that moved most: their objects, and what the best masks of either side hit, miss and add.

    Args:
        old, new: the data sets compared.
        result: of `compare`.
        budget_bytes: of all pictures together.

    Raises:
        DamageError: a record is not where its data set says.
    """
    moved = [pair for pair in result.pairs if pair.movers][:PAIRS_DRAWN]
    wanted = {mover.id for pair in moved for mover in pair.movers[:MOVERS_DRAWN]}
    sides = [read_examples(dataset.folder, dataset.manifest, wanted) for dataset in (old, new)]
    drawings: dict[Key, Callable[[int], Panels]] = {}
    for pair in moved:
        for mover in pair.movers[:MOVERS_DRAWN]:
            before, after = (side[mover.id] for side in sides)
            masks = _masks(old, pair.old, before), _masks(new, pair.new, after)
            drawings[pair.label, mover.id] = _side_by_side(before, after, masks)
    return encode_within(drawings, budget_bytes)


def _masks(dataset: Dataset, series: str, example: ImageExample) -> list[MaskSet]:
    members = next(one.members for one in series_of(dataset.manifest.layers) if one.name == series)
    return [example.masks[i] for i in members]


def _side_by_side(
    before: ImageExample, after: ImageExample, masks: tuple[list[MaskSet], list[MaskSet]]
) -> Callable[[int], Panels]:
    def panels(longer_px: int) -> Panels:
        try:
            objects, left = draw_match(before, before.annotations, masks[0], longer_px)
            _, right = draw_match(after, after.annotations, masks[1], longer_px)
        except ImageError:
            return [blank(longer_px)] * 3
        return [objects, left, right]

    return panels


def _figure(result: Comparison) -> Markup:
    images = result.images.compared
    moved = [pair for pair in result.pairs if images and (pair.better or pair.worse)][:FIGURE_LINES]
    if not moved:
        return Markup("")
    half = DELTA_BINS // 2
    return figures.histograms(
        "Histogram of the difference of each image's mean best IoU, per layer",
        [
            (clean(pair.label, 40), figures.look(i), [n / images for n in pair.difference_hist])
            for i, pair in enumerate(moved)
        ],
        [f"{(k - half) / half:+.2f} to {(k + 1 - half) / half:+.2f}" for k in range(DELTA_BINS)],
        [(k, f"{(k - half) / half:+g}" if k != half else "0") for k in range(0, DELTA_BINS + 1, 10)],
        "difference of mean best IoU",
    )


def render_comparison(result: Comparison, pictures: Mapping[Key, Thumbnail]) -> bytes:
    """A comparison to a page's bytes.

    Args:
        result: of `compare`.
        pictures: of `draw_movers`; those missing are left out.
    """

    def shown(pair: Pair) -> list[tuple[str, Thumbnail]]:
        return [(m.id, pictures[pair.label, m.id]) for m in pair.movers if (pair.label, m.id) in pictures]

    page = (
        environment()
        .get_template("compare.html.j2")
        .render(
            result=result,
            css=resource("report.css"),
            figure=_figure(result),
            shown={pair.label: shown(pair) for pair in result.pairs},
        )
    )
    return page.encode("utf-8", "backslashreplace")


def make_page(old: Dataset, new: Dataset, result: Comparison) -> bytes:
    """A comparison as a page with pictures, below `MAX_BYTES`."""
    bare = render_comparison(result, {})
    return render_comparison(result, draw_movers(old, new, result, MAX_BYTES - len(bare) - _SLACK))
