"""Sets of leaf regions as rows of bits: bit l % 64 of word l // 64 is leaf l."""

import numba
import numpy as np

# Position of the one set bit of a word: every window of six bits of this constant is different. Numba has no instruction
# for it.
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_BIT_PLACE = np.zeros(64, np.int64)
for _bit in range(64):
    _BIT_PLACE[((int(_DE_BRUIJN) << _bit) & 0xFFFFFFFFFFFFFFFF) >> 58] = _bit


@numba.njit(cache=True)
def unpack(row, out):
    """Leaves of a bit row, ascending, into `out`; returns how many."""
    count = 0
    for word in range(len(row)):
        bits = row[word]
        base = word << 6
        while bits != 0:
            low = bits & (~bits + np.uint64(1))
            place = _BIT_PLACE[(low * _DE_BRUIJN) >> np.uint64(58)]
            out[count] = base + place
            count += 1
            bits ^= low
    return count


@numba.njit(cache=True)
def row_areas(members, area):
    """Pixels of each set; float64[P]. `area`: int64[n]."""
    out = np.zeros(len(members), np.float64)
    leaves = np.empty(len(area), np.int32)
    for p in range(len(members)):
        for k in range(unpack(members[p], leaves)):
            out[p] += area[leaves[k]]
    return out
