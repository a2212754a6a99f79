"""Labels of cells on their way to masks, against loops over pixels."""

import numpy as np
import pytest

from maskmill.masks.features.snapping import cells_in_frame, masks_of, snap
from maskmill.schemas.rle import decode_mask


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns", "cell"), [(16, 24, 2, 3, 8), (13, 20, 2, 3, 8), (5, 4, 3, 3, 1.5)]
)
def test_a_pixel_has_the_label_of_the_nearest_cell(height, width, rows, columns, cell):
    cells = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    for shift in (0.5, 0.0, -0.5):
        found = cells_in_frame(cells, height, width, (cell, cell), shift)
        centre = (np.arange(max(rows, columns)) + 0.5 - shift) * cell
        for y in range(height):
            for x in range(width):
                near = [
                    min(range(n), key=lambda i, at=at: (abs(centre[i] - at - 0.5), -i))
                    for n, at in ((rows, y), (columns, x))
                ]
                assert found[y, x] == cells[tuple(near)]


def test_a_region_takes_the_label_of_most_of_its_pixels():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, (17, 23)).astype(np.int32)
    regions = (np.arange(17)[:, None] // 3 * 5 + np.arange(23) // 5).astype(np.int32)
    found = snap(labels, regions)
    for region in range(regions.max() + 1):
        inside = labels[regions == region].tolist()
        best = min(set(inside), key=lambda label: (-inside.count(label), label))
        assert set(found[regions == region].tolist()) == {best}


def test_snapping_to_what_has_the_edges_already_changes_nothing():
    labels = np.kron(np.array([[0, 1], [2, 0]], np.int32), np.ones((4, 5), np.int32))
    regions = np.kron(np.arange(4, dtype=np.int32).reshape(2, 2), np.ones((4, 5), np.int32))
    assert np.array_equal(snap(labels, regions), labels)
    assert not np.array_equal(snap(labels, np.zeros_like(regions)), labels)  # the control


def test_masks_come_by_first_pixel_and_leave_out_what_is_none():
    labels = np.array([[-1, 5, 5, 2], [9, -1, 2, 2]], np.int32)
    masks = masks_of(labels)
    drawn = [decode_mask(counts, 2, 4) for counts in masks.counts]
    assert np.array_equal(drawn, [labels == 5, labels == 2, labels == 9])
    assert masks.area.tolist() == [2, 3, 1]
    assert masks.score.tolist() == [1, 1, 1]
    assert masks_of(np.where(labels < 0, 7, labels)).area.tolist() == [2, 2, 3, 1]


def test_without_any_object_the_picture_is_one_mask():
    masks = masks_of(np.full((3, 5), -1, np.int32))
    assert masks.area.tolist() == [15]
