"""ABO sums: exact whatever the order of merging."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskmill.schemas.stats import IOU_UNIT, LayerSums, iou_units

ious = st.lists(st.floats(0, 1), max_size=30)


@given(ious)
def test_units_are_the_sum_to_a_trillionth(values):
    assert abs(iou_units(np.array(values)) / IOU_UNIT - math.fsum(values)) <= len(values) * 2**-41


@given(st.lists(ious, min_size=1, max_size=6), st.randoms())
def test_merging_in_any_order_is_the_whole(groups, random):
    def sums(values):
        return LayerSums(1, 2, len(values), iou_units(np.array(values)), 5, 10)

    parts = [sums(group) for group in groups]
    random.shuffle(parts)
    merged = sum(parts, LayerSums())
    assert merged.iou == sum(iou_units(np.array(group)) for group in groups)
    assert merged.instances == sum(map(len, groups))
    assert merged.images == len(groups)
    assert merged.coverage == 0.5


def test_no_data_is_none_and_not_zero():
    assert LayerSums().abo is LayerSums().coverage is LayerSums().masks_per_image is None
