"""The loops of the contour cues against OpenCV's and NumPy's own, on noise: every pixel and border is another case."""

import cv2
import numpy as np
import pytest

from maskmill.masks.mcg import cues

SHAPES = [(1, 1), (1, 9), (9, 1), (2, 2), (17, 23)]


def planes(shape, count, seed=0):
    return list((np.random.default_rng(seed).random((count, *shape)) * 200).astype(np.float32))


def normals(shape):
    angle = np.random.default_rng(1).random(shape) * 2 * np.pi
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def beside(plane, normal_x, normal_y, distance):
    """The plane at `distance` along the normal of each pixel."""
    ys, xs = np.mgrid[: plane.shape[0], : plane.shape[1]].astype(np.float32)
    where = xs + distance * normal_x, ys + distance * normal_y
    return cv2.remap(plane, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(plane.shape)


def central(plane):
    """Half the difference of the two neighbours, none at a mirrored border."""
    padded = np.pad(plane, [(1, 1) if side > 1 else (0, 0) for side in plane.shape], "reflect")
    padded = np.pad(padded, [(0, 0) if side > 1 else (1, 1) for side in plane.shape], "edge")
    return (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_and_tensor(shape):
    lab = planes(shape, 3)
    light, colour, strength, tensor = *np.empty((3, *shape), np.float32), np.empty((3, *shape), np.float32)
    cues.differences(*lab, light, colour, strength, tensor)
    (lx, ly), (ax, ay), (bx, by) = (central(p) for p in lab)
    np.testing.assert_allclose(light, np.hypot(lx, ly), rtol=1e-5)
    np.testing.assert_allclose(colour, np.sqrt(ax**2 + ay**2 + bx**2 + by**2), rtol=1e-5)
    np.testing.assert_allclose(strength, np.sqrt(light**2 + 4 * colour**2), rtol=1e-5)
    np.testing.assert_allclose(tensor[2], lx * ly + 4 * (ax * ay + bx * by), rtol=1e-4, atol=0.5)
    major, minor = np.empty((2, *shape), np.float32)
    cues.tensor_axes(tensor, major, minor)
    matrices = np.stack([tensor[0], tensor[2], tensor[2], tensor[1]], axis=-1).reshape(*shape, 2, 2).astype(np.float64)
    values = np.linalg.eigvalsh(matrices)
    np.testing.assert_allclose(major**2, values[..., 1], rtol=1e-4, atol=0.1)
    np.testing.assert_allclose(minor**2, values[..., 0], rtol=1e-3, atol=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_ridges_are_differences_of_differences(shape):
    (light,) = planes(shape, 1)
    out = np.empty(shape, np.float32)
    cues.ridges(light, out)
    dx, dy = central(light)
    (xx, xy), yy = central(dx), central(dy)[1]
    expected = np.sqrt(((xx - yy) / 2) ** 2 + xy**2) - np.abs((xx + yy) / 2) / 2
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distance", [1, 5, 40])
def test_samples_are_those_of_remap(shape, distance):
    light, a, b, texture, strength = planes(shape, 5)
    nx, ny = normals(shape)
    out = np.empty((5, *shape), np.float32)
    picture = np.stack([light, a, b, texture], axis=-1)
    cues.side_differences(picture, nx, ny, distance, out[0], out[1], out[2])
    step = [beside(p, nx, ny, distance) - beside(p, nx, ny, -distance) for p in (light, a, b, texture)]
    np.testing.assert_allclose(out[:3], [np.abs(step[0]), np.hypot(step[1], step[2]), np.abs(step[3])], atol=2e-2)
    cues.peaks(strength, nx, ny, distance, out[3])
    sides = np.maximum(beside(strength, nx, ny, distance), beside(strength, nx, ny, -distance))
    np.testing.assert_allclose(out[3], strength - sides, atol=2e-2)
    cues.continuations(strength, nx, ny, distance, out[4])
    ends = np.minimum(beside(strength, -ny, nx, distance), beside(strength, -ny, nx, -distance))
    np.testing.assert_allclose(out[4], ends, atol=2e-2)
    if distance < min(shape):  # a control: across is not along
        assert not np.allclose(ends, sides, atol=2e-2)


def test_angles_are_halved_and_doubled():
    angle = np.linspace(-np.pi, np.pi, 50, dtype=np.float32)[None]
    nx, ny = np.empty((2, 1, 50), np.float32)
    cues.half_angles(3 * np.cos(angle), 3 * np.sin(angle), nx, ny)
    np.testing.assert_allclose(nx, np.cos(angle / 2), atol=1e-4)
    np.testing.assert_allclose(np.abs(ny), np.abs(np.sin(angle / 2)), atol=1e-4)
    np.testing.assert_allclose(2 * nx * ny, np.sin(angle), atol=1e-4)
    tensor = np.stack([nx * nx, ny * ny, nx * ny])
    cosine, sine = np.empty((2, 1, 50), np.float32)
    cues.doubled_angles(tensor, cosine, sine)
    np.testing.assert_allclose([cosine, sine], [np.cos(angle), np.sin(angle)], atol=1e-4)
    cues.doubled_angles(np.zeros_like(tensor), cosine, sine)
    cues.half_angles(cosine, sine, nx, ny)
    assert (nx == 1).all()
    assert (ny == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_local_histograms(shape):
    picture = np.stack(planes(shape, 4), axis=-1)
    ranges = np.array([(20, 180)] * 4, np.float32)
    bins = cues.soft_histograms(picture, ranges)
    place = np.clip((picture - 20) * (5 / 160), 0, 5)
    expected = np.maximum(1 - np.abs(place[..., None] - np.arange(6)), 0)
    np.testing.assert_allclose(bins.reshape(expected.shape), expected, atol=1e-4)
    nx, ny = normals(shape)
    found = cues.histogram_differences(bins, nx, ny, 2.5)
    for c in range(4):
        apart = [
            np.abs(beside(p, nx, ny, 2.5) - beside(p, nx, ny, -2.5))
            for p in np.moveaxis(bins[..., 6 * c : 6 * c + 6], -1, 0).copy()
        ]
        np.testing.assert_allclose(found[c], np.sum(apart, axis=0), atol=1e-3)
