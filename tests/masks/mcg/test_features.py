import numpy as np
import pytest

from maskmill.masks.mcg import measures
from maskmill.masks.mcg.candidates import as_candidates, fill, propose
from maskmill.masks.mcg.features import CANDIDATE_FEATURES, candidate_features
from maskmill.masks.mcg.hierarchy import Hierarchy, Tree
from maskmill.masks.mcg.watershed import touching_regions


class Scene:
    """A picture, its hierarchy and regions, candidates before and after hole filling, and the latter's features."""

    def __init__(self, oracle):
        self.picture = oracle.blobs(24, 31)
        self.hierarchy = oracle.small_hierarchy(4, 24, 31, 40)
        self.contour = np.random.default_rng(4).random((24, 31)).astype(np.float32)
        self.regions = oracle.regions_of(self.hierarchy, self.picture, self.contour)
        groups = propose(self.hierarchy, self.regions, ((60, 200, 200, 200),), 40)
        self.before = as_candidates(groups)
        groups = fill(groups)
        self.candidates = as_candidates(groups)
        self.sets = oracle.sets_of(self.candidates.members)
        self.features = candidate_features(groups, self.candidates, self.regions)


@pytest.fixture(scope="module")
def scene(oracle):
    return Scene(oracle)


def test_holes_against_flood_fill_of_the_drawn_mask(oracle):
    """Every candidate is one with its holes filled, and none is missing; on trees that make many holes."""
    changed = 0
    for seed in range(5):
        hierarchy = oracle.small_hierarchy(seed, 30, 30, 80)
        regions = oracle.regions_of(hierarchy)
        groups = propose(hierarchy, regions, ((200, 500, 500, 500),), 60)
        before = oracle.sets_of(as_candidates(groups).members)
        masks = [oracle.without_holes(oracle.draw(s, hierarchy.labels)).tobytes() for s in before]
        changed += sum(oracle.draw(s, hierarchy.labels).tobytes() != m for s, m in zip(before, masks, strict=True))
        after = oracle.sets_of(as_candidates(fill(groups)).members)
        assert [oracle.draw(s, hierarchy.labels).tobytes() for s in after] == list(dict.fromkeys(masks))
    assert changed > 50


def test_filling_drops_what_has_become_equal_and_keeps_the_first(scene, oracle):
    labels, before, after = scene.hierarchy.labels, scene.before, scene.candidates
    masks = [oracle.without_holes(oracle.draw(s, labels)).tobytes() for s in oracle.sets_of(before.members)]
    first = list(dict.fromkeys(masks))
    assert len(first) < len(masks)
    now = [oracle.draw(s, labels).tobytes() for s in scene.sets]
    assert now == first
    kept = [masks.index(m) for m in first]
    np.testing.assert_array_equal(after.end, before.end[kept])
    np.testing.assert_array_equal(after.parts, before.parts[kept])


def test_shape_features_against_the_drawn_mask(scene, oracle):
    hierarchy, contour, features = scene.hierarchy, scene.contour, scene.features
    assert np.isfinite(features).all()
    height, width = hierarchy.labels.shape
    for row, members in enumerate(scene.sets):
        mask = oracle.draw(members, hierarchy.labels)
        got = dict(zip(CANDIDATE_FEATURES, features[row].tolist(), strict=True))
        ys, xs = np.nonzero(mask)
        area = mask.sum()
        padded = np.pad(mask, 1)
        across = [(padded[:, :-1] != padded[:, 1:]).sum(), (padded[:-1] != padded[1:]).sum()]
        border = mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()
        perimeter = sum(across)
        steps = [
            (contour[:, :-1] + contour[:, 1:])[mask[:, :-1] != mask[:, 1:]] / 2,
            (contour[:-1] + contour[1:])[mask[:-1] != mask[1:]] / 2,
        ]
        total = sum(s.sum() for s in steps)
        inner = perimeter - border
        box = (xs.max() - xs.min() + 1) * (ys.max() - ys.min() + 1)
        expected = {
            "area": area / mask.size,
            "perimeter": perimeter / (2 * (height + width)),
            "contour_sum": total / (2 * (height + width)),
            "contour_mean": total / max(inner, 1),
            "roundness": perimeter**2 / area,
            "contour_per_size": total / np.sqrt(area),
            "left": xs.min() / width,
            "top": ys.min() / height,
            "right": (xs.max() + 1) / width,
            "bottom": (ys.max() + 1) / height,
            "box_area": box / mask.size,
            "box_fill": area / box,
            "border_fraction": border / perimeter,
            "border_sides": sum(bool(side.any()) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])),
            "border_bottom_share": mask[-1].mean(),
            "border_top_share": mask[0].mean(),
            "centre_x": abs((xs.mean() + 0.5) / width - 0.5),
            "centre_y": (ys.mean() + 0.5) / height - 0.5,
            "leaves": np.log(len(members)),
        }
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_colour_features_against_the_drawn_mask(scene, oracle):
    import cv2

    hierarchy, features = scene.hierarchy, scene.features
    lab = cv2.cvtColor(scene.picture, cv2.COLOR_RGB2LAB).astype(np.float64)
    neighbours = {k: set() for k in range(hierarchy.labels.max() + 1)}
    for a, b in hierarchy.edges.tolist():
        neighbours[a].add(b)
        neighbours[b].add(a)
    for row, members in enumerate(scene.sets):
        got = dict(zip(CANDIDATE_FEATURES, features[row].tolist(), strict=True))
        mask = oracle.draw(members, hierarchy.labels)
        ring_leaves = set().union(*(neighbours[k] for k in members)) - members
        assert got["light"] == pytest.approx(lab[mask, 0].mean(), rel=1e-4)
        assert got["b_spread"] == pytest.approx(lab[mask, 2].std(), rel=1e-3, abs=1e-3)
        if not ring_leaves:
            assert got["ring_area"] == got["ring_light"] == got["rest_light"] == 0
            continue
        ring = oracle.draw(ring_leaves, hierarchy.labels)
        assert got["ring_area"] == pytest.approx(ring.sum() / mask.sum(), rel=1e-4)
        assert got["ring_light"] == pytest.approx(lab[mask, 0].mean() - lab[ring, 0].mean(), rel=1e-3, abs=1e-3)
        assert got["rest_light"] == pytest.approx(lab[mask, 0].mean() - lab[~mask, 0].mean(), rel=1e-3, abs=1e-3)
        chroma = lab[mask, 1:].mean(axis=0) - lab[ring, 1:].mean(axis=0)
        assert got["ring_chroma"] == pytest.approx(np.hypot(*chroma), rel=1e-3, abs=1e-3)


def test_the_numbers_are_named_as_the_features():
    for number, name in enumerate(CANDIDATE_FEATURES):
        constant = "PARTS_" if name == "parts" else name.upper()  # how many parts a group may have is PARTS
        assert getattr(measures, constant) == number


def test_boundary_levels_against_the_edges(scene, oracle):
    hierarchy, features = scene.hierarchy, scene.features
    for row, members in enumerate(scene.sets):
        ends = np.isin(hierarchy.edges, sorted(members)).sum(axis=1)
        outer, inner = ends == 1, ends == 2
        got = dict(zip(CANDIDATE_FEATURES, features[row].tolist(), strict=True))
        if outer.any():
            mean = np.average(hierarchy.saliency[outer], weights=hierarchy.length[outer])
            assert got["saliency_mean"] == pytest.approx(mean, rel=1e-4)
            assert got["saliency_min"] == pytest.approx(hierarchy.saliency[outer].min())
        assert got["inner_max"] == pytest.approx(hierarchy.saliency[inner].max() if inner.any() else 0)
        weights = hierarchy.length[inner].astype(float)
        mean = np.average(hierarchy.saliency[inner], weights=weights) if inner.any() else 0
        assert got["inner_mean"] == pytest.approx(mean, rel=1e-4)
        step = np.average(scene.regions.step[inner], weights=weights) if inner.any() else 0
        assert got["inner_step"] == pytest.approx(step, rel=1e-4)
        assert got["inner_density"] == pytest.approx(
            weights.sum() / scene.regions.area[sorted(members)].sum(), rel=1e-4
        )
        if outer.any():
            step = np.average(scene.regions.step[outer], weights=hierarchy.length[outer])
            assert got["step_colour"] == pytest.approx(step, rel=1e-4)


def rectangle(height, width, top, left, rows, columns):
    labels = np.zeros((height, width), np.int32)
    labels[top : top + rows, left : left + columns] = 1
    return labels


@pytest.mark.parametrize(("rows", "columns"), [(10, 10), (4, 20), (20, 4)])
def test_a_rectangle_is_solid_and_as_long_as_it_is(rows, columns, oracle):
    labels = rectangle(40, 50, 5, 6, rows, columns)
    edges, length, strength = touching_regions(labels, np.zeros(labels.shape, np.float32))
    tree = Tree(np.array([2, 2, 2], np.int32), np.array([0, 0, 0.5], np.float32))
    hierarchy = Hierarchy(labels, edges, length, strength, strength, (tree,))
    regions = oracle.regions_of(hierarchy)
    groups = propose(hierarchy, regions, ((3, 0, 0, 0),), 1)
    candidates = as_candidates(groups)
    row = oracle.sets_of(candidates.members).index({1})
    features = candidate_features(groups, candidates, regions)[row]
    got = dict(zip(CANDIDATE_FEATURES, features.tolist(), strict=True))
    # The support polygon of 16 directions circumscribes an axis-parallel rectangle exactly.
    assert got["solidity"] == pytest.approx(1.0, rel=1e-5)
    assert got["elongation"] == pytest.approx(min(rows, columns) / max(rows, columns), rel=1e-4)
    assert got["box_aspect"] == pytest.approx(np.log(columns / rows), abs=1e-5)
    assert got["tilt"] == pytest.approx(np.sign(rows - columns), abs=1e-5)
