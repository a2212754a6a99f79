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
def fill_holes(members, box, start, neighbour):
    """Adds to each candidate the parts of its complement that do not reach the picture's border, in place.

    A hole lies strictly inside the candidate's bounding box, so the search from a touching leaf ends as soon as it meets
    one that does not.

    Args:
        members: uint64[P, words]; box, start, neighbour: see `Regions`.

    Returns:
        int64, how many candidates changed.
    """
    n = len(box)
    leaves = np.empty(n, np.int32)
    state = np.zeros(n, np.int32)  # 3p + 1: inside candidate p; 3p + 2: seen, outside or open
    stack = np.empty(n, np.int32)
    changed = 0
    for p in range(len(members)):
        count = unpack(members[p], leaves)
        inside, seen, escaped = 3 * p + 1, 3 * p + 2, 3 * p + 3
        x0, y0, x1, y1 = 1 << 30, 1 << 30, -1, -1
        for k in range(count):
            leaf = leaves[k]
            state[leaf] = inside
            x0, y0 = min(x0, box[leaf, 0]), min(y0, box[leaf, 1])
            x1, y1 = max(x1, box[leaf, 2]), max(y1, box[leaf, 3])
        filled = False
        for k in range(count):
            for j in range(start[leaves[k]], start[leaves[k] + 1]):
                seed = neighbour[j]
                if state[seed] >= inside:
                    continue
                # Flood the complement from here; it is a hole if nothing in it reaches beyond the box.
                size, head, open_ = 1, 0, False
                stack[0] = seed
                state[seed] = seen
                while head < size:
                    leaf = stack[head]
                    head += 1
                    if box[leaf, 0] <= x0 or box[leaf, 1] <= y0 or box[leaf, 2] >= x1 or box[leaf, 3] >= y1:
                        open_ = True
                        break
                    for i in range(start[leaf], start[leaf + 1]):
                        other = neighbour[i]
                        if state[other] == escaped:
                            open_ = True
                        elif state[other] < inside:
                            state[other] = seen
                            stack[size] = other
                            size += 1
                    if open_:
                        break
                if open_:
                    for i in range(size):
                        state[stack[i]] = escaped
                else:
                    filled = True
                    for i in range(size):
                        leaf = stack[i]
                        members[p, leaf >> 6] |= np.uint64(1) << np.uint64(leaf & 63)
        changed += filled
    return changed


@numba.njit(cache=True)
def row_areas(members, area):
    """Pixels of each set; float64[P]. `area`: int64[n]."""
    out = np.zeros(len(members), np.float64)
    leaves = np.empty(len(area), np.int32)
    for p in range(len(members)):
        for k in range(unpack(members[p], leaves)):
            out[p] += area[leaves[k]]
    return out
