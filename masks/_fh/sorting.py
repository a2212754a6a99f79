"""Sorting edges by (weight, tag), exactly and nearly linearly.

Weights are non-negative doubles, whose bit patterns sort like the numbers. A range of edges is sorted in two counting
passes over the leading KEY_BITS bits of what distinguishes its members; what two members still share is put right by
insertion. Where ties or near ties (a ramp's weights differ by rounding noise only) would make insertion quadratic, the
run of equal keys becomes a range of its own: its members agree in the leading bits, so that its key starts below them.
"""

import numpy as np
from numba import njit

DIGIT_BITS = 11
DIGITS = 1 << DIGIT_BITS
KEY_TOP = DIGITS * DIGITS - 1
OCTAVES = 31  # binary orders of magnitude below the largest weight that get keys of their own
MANTISSA_BITS = 52
PATIENCE = 16  # steps one edge may sink by insertion before its run is sorted as a range of its own


@njit(nogil=True, cache=True)
def _extremes(bits, low, high):
    """Returns the smallest non-zero and the largest pattern in bits[low:high]; twice the largest where all are zero."""
    largest = np.int64(0)
    smallest = np.int64(0x7FFFFFFFFFFFFFFF)
    for i in range(low, high):
        value = bits[i]
        largest = max(largest, value)
        smallest = min(smallest, value if value > 0 else np.int64(0x7FFFFFFFFFFFFFFF))
    return min(smallest, largest), largest


@njit(nogil=True, cache=True)
def _counting_pass(bits, tags, low, high, out_bits, out_tags, base, shift, digit_shift, starts):
    for i in range(low, high):
        key = max((bits[i] - base) >> shift, np.int64(0))
        digit = (key >> digit_shift) & (DIGITS - 1)
        place = starts[digit]
        starts[digit] = np.uint32(place + 1)
        out_bits[place] = bits[i]
        out_tags[place] = tags[i]


@njit(nogil=True, cache=True)
def _sort_by_key(bits, tags, low, high, spare_bits, spare_tags, base, shift, starts):
    """Stable sort of [low, high) by key, least significant digit first."""
    starts[:] = 0
    for i in range(low, high):
        key = max((bits[i] - base) >> shift, np.int64(0))
        starts[0, key & (DIGITS - 1)] += 1
        starts[1, key >> DIGIT_BITS] += 1
    for digit_index in range(2):
        place = low
        for digit in range(DIGITS):
            count = starts[digit_index, digit]
            starts[digit_index, digit] = place
            place += count
    _counting_pass(bits, tags, low, high, spare_bits, spare_tags, base, shift, 0, starts[0])
    _counting_pass(spare_bits, spare_tags, low, high, bits, tags, base, shift, DIGIT_BITS, starts[1])


@njit(nogil=True, cache=True)
def _sort_tags(tags, low, high, spare_tags, starts):
    """Sorts the tags of equally heavy edges; 32 bits in three passes and a copy."""
    source, target = tags, spare_tags
    for digit_index in range(3):
        counts = starts[0]
        counts[:] = 0
        shift = np.uint32(digit_index * DIGIT_BITS)
        for i in range(low, high):
            counts[np.int64(source[i] >> shift) & (DIGITS - 1)] += 1
        place = low
        for digit in range(DIGITS):
            count = counts[digit]
            counts[digit] = place
            place += count
        for i in range(low, high):
            digit = np.int64(source[i] >> shift) & (DIGITS - 1)
            target[counts[digit]] = source[i]
            counts[digit] += 1
        source, target = target, source
    tags[low:high] = spare_tags[low:high]


@njit(nogil=True, cache=True)
def sort_edges(weights, tags, spare_weights, spare_tags, starts, pending):
    """Sorts edges by weight, ties by tag, in place.

    Invariant: outside the pending ranges the edges are sorted and in their final places. Each pending range is
    narrower in value than the one it came from (it shares that one's key), so the loop ends.

    Args:
        weights: float64, >= 0, no NaN. tags: uint32, all different.
        spare_weights, spare_tags: scratch of at least as many elements.
        starts: (2, DIGITS) uint32 scratch. pending: (n, 2) int64 scratch, n > edges / PATIENCE + 1.
    """
    bits = weights.view(np.int64)
    spare_bits = spare_weights.view(np.int64)
    pending[0, 0] = 0
    pending[0, 1] = tags.size
    waiting = 1
    while waiting > 0:
        waiting -= 1
        low, high = pending[waiting]
        if high - low < 2:
            continue
        smallest, largest = _extremes(bits, low, high)
        if smallest == largest and bits[low:high].min() == largest:
            _sort_tags(tags, low, high, spare_tags, starts)
            continue
        # Key 0 takes everything below `base`: zeros and what is more than OCTAVES below the largest weight.
        base = max(smallest, largest - (np.int64(OCTAVES) << MANTISSA_BITS)) - 1
        shift = np.int64(0)
        while ((largest - base) >> shift) > KEY_TOP:
            shift += 1
        _sort_by_key(bits, tags, low, high, spare_bits, spare_tags, base, shift, starts)
        i = low + 1
        while i < high:
            value = bits[i]
            tag = tags[i]
            if bits[i - 1] < value or (bits[i - 1] == value and tags[i - 1] < tag):
                i += 1
                continue
            j = i
            steps = 0
            while (
                j > low and (bits[j - 1] > value or (bits[j - 1] == value and tags[j - 1] > tag)) and steps < PATIENCE
            ):
                bits[j] = bits[j - 1]
                tags[j] = tags[j - 1]
                j -= 1
                steps += 1
            bits[j] = value
            tags[j] = tag
            if steps == PATIENCE:
                key = max((value - base) >> shift, np.int64(0))
                first = j
                while first > low and max((bits[first - 1] - base) >> shift, np.int64(0)) == key:
                    first -= 1
                while i < high and max((bits[i] - base) >> shift, np.int64(0)) == key:
                    i += 1
                pending[waiting, 0] = first
                pending[waiting, 1] = i
                waiting += 1
            i += 1
