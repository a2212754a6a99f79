"""Where the views of an image lie, which masks they show, and what part of each cell a mask covers.

Plain loops over run lengths, compiled by Numba with Python's lock released, so that the input pipeline's threads run
them side by side; the same arithmetic as a TensorFlow graph was 11 times slower. No mask is ever drawn. A view's
pixels, cells and masks are compared in whole numbers: along a side, a crop pixel is `grid` units long and a cell as
many units as the crop has pixels, so areas are products of integers and pooled masks are exact, whatever their
overlap, size, crop or flip.

Randomness has no state: every draw is a hash of the record's key, the view, a stream and a number within it.
"""

from typing import NamedTuple

import numba
import numpy as np

from maskmill.training import order
from maskmill.training.config import DataConfig

TRIES = 100  # crops drawn until one fits, as in SimCLR's and BYOL's pipelines

POOL_SOFT, POOL_ARGMAX, POOL_POINT = range(3)
_AREA, _ASPECT, _PLACE, _MASK, _POINT = range(5)  # streams of draws

_jit = numba.njit(nogil=True, cache=True)
_mix = _jit(order.mix)


class Geometry(NamedTuple):
    """What the compiled loops need of `DataConfig`, as numbers."""

    size: int
    cell: int
    masks: int
    views: int
    pool: int
    replace: bool
    reject: bool
    flip: bool
    whole: bool  # one global mask instead of those given
    min_area: float
    max_area: float
    log_aspect_low: float
    log_aspect_high: float

    @classmethod
    def of(cls, config: DataConfig) -> "Geometry":
        """The numbers of a configuration."""
        return cls(
            size=config.image_size,
            cell=config.cell,
            masks=config.masks_per_view,
            views=config.views,
            pool=("soft", "argmax", "point").index(config.pool),
            replace=config.sample == "present_uniform",
            reject=config.crop == "reject",
            flip=config.flip,
            whole=config.global_mask,
            min_area=float(config.min_area),
            max_area=float(config.max_area),
            log_aspect_low=float(np.log(config.aspect[0])),
            log_aspect_high=float(np.log(config.aspect[1])),
        )


@_jit
def uniform(key, view, stream, index):
    """Float64 in [0, 1): draw `index` of a stream of a view, for a record's uint64 `key`."""
    where = np.uint64((view * 8 + stream) * 65536 + index + 1)
    return np.float64(_mix(key + _mix(where)) >> np.uint64(11)) * 2.0**-53


@_jit
def crop_box(key, view, height, width, g):
    """Top, left, height, width of a random crop in whole pixels, and whether it is flipped (paper, A.1).

    Area and logarithm of the aspect are uniform, then the position. "reject" takes the first of `TRIES` shapes that
    fits inside the image and, where none does (very long images), the largest centred crop of an allowed aspect;
    "clip" takes the first shape and cuts its sides to the image's (release).
    """
    flip = g.flip and uniform(key, view, _PLACE, 2) < 0.5
    for attempt in range(TRIES):
        area = height * width * (g.min_area + (g.max_area - g.min_area) * uniform(key, view, _AREA, attempt))
        low, high = g.log_aspect_low, g.log_aspect_high
        aspect = np.exp(low + (high - low) * uniform(key, view, _ASPECT, attempt))
        h, w = max(int(np.rint(np.sqrt(area / aspect))), 1), max(int(np.rint(np.sqrt(area * aspect))), 1)
        if not g.reject:
            h, w = min(h, height), min(w, width)
        if h <= height and w <= width:
            top = int(uniform(key, view, _PLACE, 0) * (height - h + 1))
            left = int(uniform(key, view, _PLACE, 1) * (width - w + 1))
            return top, left, h, w, flip
    h = max(min(height, int(np.rint(width / np.exp(g.log_aspect_low)))), 1)
    w = max(min(width, int(np.rint(height * np.exp(g.log_aspect_high)))), 1)
    return (height - h) // 2, (width - w) // 2, h, w, flip


@_jit
def decode_runs(counts, begin, end, pixels, runs):
    """Compressed COCO counts (see `schemas.rle`) to runs, trusting nothing.

    Args:
        counts: uint8, of which begin..end is one mask.
        pixels: height times width of the mask.
        runs: int64, at least end - begin long; filled in place.

    Returns:
        How many runs there are, or -1 where the counts do not describe a mask of this size.
    """
    number, filled, value, shift = 0, 0, 0, 0
    for at in range(begin, end):
        code = np.int64(counts[at]) - 48
        if code < 0 or code > 63 or shift > 30:
            return -1
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= np.int64(1) << shift
        if number > 2:
            value += runs[number - 2]
        if value < 0 or value > pixels - filled:
            return -1
        runs[number] = value
        filled += value
        number += 1
        value, shift = 0, 0
    return number if shift == 0 and filled == pixels and number > 0 else -1


@_jit
def _before(offset, side, size, grid, nearest, mirrored):
    # How much of a view's side lies before pixel `offset` of a crop's side. Exact area: in 1/grid pixels. Nearest
    # resizing: in samples; sample r reads pixel floor((r + 0.5) * side / size), so it lies before `offset` if
    # (2 r + 1) * side < 2 * size * offset.
    if not nearest:
        return grid * offset
    if mirrored:
        offset = side - offset
    samples = (2 * size * offset + side - 1) // side // 2
    return size - samples if mirrored else samples


@_jit
def pool_runs(runs, number, height, box, size, cell, nearest, out):
    """What part of every cell of a view a mask covers.

    Args:
        runs, number: as `decode_runs` gives them.
        height: of the mask's image, in pixels.
        box: top, left, height, width, flip.
        size, cell: sides of the view and of its cells, in pixels.
        nearest: False averages the mask over a cell's area of the crop, exactly; True averages the mask resized to
            `size` by nearest neighbour, as the release draws it.
        out: float64[cells], overwritten with fractions, row by row.

    Returns:
        Whether any of the mask is in view.
    """
    top, left, h, w, flip = box
    grid = size // cell
    cell_y, cell_x = (cell, cell) if nearest else (h, w)
    out[:] = 0
    seen, end = False, 0
    for index in range(number):
        begin, end = end, end + runs[index]
        if index % 2 == 0 or begin == end:
            continue
        for x in range(max(begin // height, left), min((end - 1) // height + 1, left + w)):
            y0 = max(begin - x * height, top) - top
            y1 = min(end - x * height, top + h) - top
            if y0 >= y1:
                continue
            y0, y1 = _before(y0, h, size, grid, nearest, False), _before(y1, h, size, grid, nearest, False)
            x0 = _before(x - left, w, size, grid, nearest, flip)
            x1 = _before(x - left + 1, w, size, grid, nearest, flip)
            while x0 < x1:
                column = x0 // cell_x
                next_x = min(x1, (column + 1) * cell_x)
                y = y0
                while y < y1:
                    row = y // cell_y
                    next_y = min(y1, (row + 1) * cell_y)
                    out[row * grid + (grid - 1 - column if flip else column)] += (next_y - y) * (next_x - x0)
                    seen = True
                    y = next_y
                x0 = next_x
    out /= cell_y * cell_x
    return seen


@_jit
def _keep_largest(covered, layer):
    # One-hot cells (release): of each layer's masks, the one that covers most of a cell takes it all. It stays empty
    # where the pixels of no mask outnumber every mask's; of equal masks the first wins.
    begin = 0
    while begin < len(layer):
        end = begin
        while end < len(layer) and layer[end] == layer[begin]:
            end += 1
        for cell in range(covered.shape[1]):
            column = covered[begin:end, cell]
            best = begin + np.argmax(column)
            leads = covered[best, cell] > 0 and covered[best, cell] >= 1 - column.sum()
            covered[begin:end, cell] = 0
            covered[best, cell] = 1.0 if leads else 0.0
        begin = end


@_jit
def _keep_point(key, view, draw, weights):
    # One-hot cell of a pixel drawn uniformly inside the mask (section 4.4): a cell's share of the mask is its chance.
    mark = uniform(key, view, _POINT, draw) * weights.sum()
    kept = -1
    for cell in range(len(weights)):
        if weights[cell] > 0:
            kept = cell
            mark -= weights[cell]
            if mark < 0:
                break
    weights[:] = 0
    if kept >= 0:
        weights[kept] = 1


@_jit
def _sample(key, view, g, covered, weights, ids):
    # M of the masks present in the view: independent draws, or the first M steps of a Fisher-Yates shuffle.
    present = np.empty(len(covered), np.int64)
    count = 0
    for k in range(len(covered)):
        if covered[k].max() > 0:
            present[count] = k
            count += 1
    for m in range(g.masks if g.replace else min(g.masks, count)):
        if count == 0:
            break
        first = 0 if g.replace else m
        chosen = first + int(uniform(key, view, _MASK, m) * (count - first))
        if not g.replace:
            present[m], present[chosen] = present[chosen], present[m]
            chosen = m
        ids[m] = present[chosen]
        weights[m] = covered[present[chosen]]
        if g.pool == POOL_POINT:
            _keep_point(key, view, m, weights[m])


@_jit
def make_views(keys, height, width, counts, ends, image, layer, g):
    """The geometry of both views of n images.

    Args:
        keys: uint64[n], one per record.
        height, width: int64[n], pixels.
        counts: uint8, the compressed COCO counts of all masks, one after another.
        ends: int64[K], where each mask's counts end.
        image, layer: int64[K], whose mask it is and of which layer; rising, by image and then layer.
        g: `Geometry.of` the configuration.

    Returns:
        boxes int64[n, 2, 5]: top, left, height, width, flip.
        weights float32[n, 2, M, cells]: of each cell, the part that the sampled mask covers; or one-hot cells.
        ids int32[n, 2, M]: which of the image's masks, in the order given, or -1 for padding (weights 0).
        broken: -1, or the first mask that does not fill its image; then the rest is meaningless.
    """
    n, cells = len(keys), (g.size // g.cell) ** 2
    boxes = np.zeros((n, 2, 5), np.int64)
    weights = np.zeros((n, 2, g.masks, cells), np.float32)
    ids = np.full((n, 2, g.masks), -1, np.int32)
    stop = 0
    for i in range(n):
        start = stop
        while stop < len(image) and image[stop] == i:
            stop += 1
        covered = np.zeros((2, stop - start, cells))
        for view in range(2):
            # One view: the second set of masks is another draw from the same crop (Table 5, row b).
            top, left, h, w, flip = crop_box(keys[i], min(view, g.views - 1), height[i], width[i], g)
            boxes[i, view] = (top, left, h, w, int(flip))
        for k in range(start, stop):
            begin = ends[k - 1] if k else 0
            runs = np.empty(ends[k] - begin, np.int64)
            number = decode_runs(counts, begin, ends[k], height[i] * width[i], runs)
            if number < 0:
                return boxes, weights, ids, k
            for view in range(g.views):
                top, left, h, w, flip = boxes[i, view]
                box = (top, left, h, w, flip > 0)
                nearest = g.pool == POOL_ARGMAX
                pool_runs(runs, number, height[i], box, g.size, g.cell, nearest, covered[view, k - start])
        for view in range(2):
            source = covered[min(view, g.views - 1)]
            if g.whole:
                source = np.ones((1, cells))
            elif g.pool == POOL_ARGMAX and view < g.views:
                _keep_largest(source, layer[start:stop])
            _sample(keys[i], view, g, source, weights[i, view], ids[i, view])
    return boxes, weights, ids, -1
