"""Rays against every solid: entries lie on surfaces, normals point outward, and closed forms agree."""

import numpy as np
import pytest

from orchestrator.data.scenes.solids import SOLIDS, Convex, Floats, HalfSpace

DOWN_3 = np.array([0.0, -1.0, 0.0])


def _random_rays(count: int) -> tuple[Floats, Floats]:
    """Rays from a sphere of radius 4 toward random points near the origin, of random lengths."""
    rng = np.random.default_rng(7)
    origin_3N = rng.normal(size=(3, count))
    origin_3N *= 4 / np.linalg.norm(origin_3N, axis=0)
    direction_3N = rng.uniform(-0.9, 0.9, (3, count)) - origin_3N
    return origin_3N, direction_3N * rng.uniform(0.2, 3, count)


def _entry_of_one_ray(shape: str, origin: tuple[float, float, float], direction: Floats) -> float:
    entry_N = SOLIDS[shape].body.entry(np.array(origin)[:, None], direction[:, None])
    return float(entry_N[0])


def test_there_are_at_least_eight_shapes() -> None:
    assert len(SOLIDS) >= 8


@pytest.mark.parametrize("shape", SOLIDS)
def test_rays_enter_within_the_bounding_sphere_and_against_the_normal(shape: str) -> None:
    origin_3N, direction_3N = _random_rays(4000)
    solid = SOLIDS[shape]
    entry_N = solid.body.entry(origin_3N, direction_3N)
    hit_N = np.isfinite(entry_N)
    assert 0.05 < hit_N.mean() < 0.95
    point_3K = origin_3N[:, hit_N] + entry_N[hit_N] * direction_3N[:, hit_N]
    assert np.linalg.norm(point_3K, axis=0).max() <= solid.radius + 1e-9
    assert point_3K[1].min() >= -solid.rest_height - 1e-6
    facing_K = (solid.body.normal(point_3K) * direction_3N[:, hit_N]).sum(axis=0)
    assert facing_K.max() <= 1e-6


@pytest.mark.parametrize("shape", SOLIDS)
def test_normals_are_the_gradient_of_the_depth_map(shape: str) -> None:
    step = 1e-4
    x_N, z_N = np.random.default_rng(3).uniform(-0.7, 0.7, (2, 400))
    body = SOLIDS[shape].body

    def height(x: Floats, z: Floats) -> Floats:
        origin_3N = np.stack([x, np.full_like(x, 3.0), z])
        entry_N = body.entry(origin_3N, np.broadcast_to(DOWN_3[:, None], origin_3N.shape))
        return np.where(np.isinf(entry_N), np.nan, 3.0 - entry_N)

    y_N = height(x_N, z_N)
    slope_x = (height(x_N + step, z_N) - height(x_N - step, z_N)) / (2 * step)
    slope_z = (height(x_N, z_N + step) - height(x_N, z_N - step)) / (2 * step)
    smooth_N = (np.abs(slope_x) < 3) & (np.abs(slope_z) < 3)  # nan, beside the silhouette, is not
    normal_3K = body.normal(np.stack([x_N, y_N, z_N])[:, smooth_N])
    expected_3K = np.stack([-slope_x, np.ones_like(x_N), -slope_z])[:, smooth_N]
    cosine_K = (normal_3K * expected_3K).sum(axis=0)
    cosine_K /= np.linalg.norm(normal_3K, axis=0) * np.linalg.norm(expected_3K, axis=0)
    assert smooth_N.sum() > 50
    assert np.quantile(cosine_K, 0.02) > 0.999  # the few below straddle an edge


@pytest.mark.parametrize("shape", SOLIDS)
def test_a_ray_straight_down_reaches_the_top_and_one_beside_misses(shape: str) -> None:
    top = {"disk": 0.16, "brick": 0.3, "cube": 0.65, "prism": 0.6, "pyramid": 0.75, "dome": 0.95, "torus": 0.95}
    expected = top.get(shape, SOLIDS[shape].rest_height)
    assert _entry_of_one_ray(shape, (1e-9, 5.0, 1e-9), DOWN_3) == pytest.approx(5 - expected, abs=1e-5)
    assert _entry_of_one_ray(shape, (1.5, 5.0, 0.0), DOWN_3) == np.inf


def test_distance_is_counted_in_multiples_of_the_direction() -> None:
    for shape in SOLIDS:
        once = _entry_of_one_ray(shape, (0.3, 5.0, 0.1), DOWN_3)
        assert _entry_of_one_ray(shape, (0.3, 5.0, 0.1), 4 * DOWN_3) == pytest.approx(once / 4, abs=1e-6)


def test_rays_that_point_away_miss() -> None:
    for shape in SOLIDS:
        assert _entry_of_one_ray(shape, (0.1, 5.0, 0.1), -DOWN_3) == np.inf


def test_the_cone_has_one_nappe() -> None:
    assert _entry_of_one_ray("cone", (5.0, 1.5, 0.0), np.array([-1.0, 0.0, 0.0])) == np.inf
    assert _entry_of_one_ray("cone", (5.0, 0.0, 0.0), np.array([-1.0, 0.0, 0.0])) == pytest.approx(5 - 0.375)
    assert _entry_of_one_ray("cone", (0.1, -5.0, 0.0), -DOWN_3) == pytest.approx(5 - 0.85)


def test_the_torus_has_a_hole() -> None:
    assert _entry_of_one_ray("torus", (0.0, 0.0, -5.0), np.array([0.0, 0.0, 1.0])) == np.inf
    assert _entry_of_one_ray("torus", (0.68, 0.0, -5.0), np.array([0.0, 0.0, 1.0])) == pytest.approx(5 - 0.27)


def test_a_ray_parallel_to_a_face_is_inside_or_outside_its_half_space() -> None:
    slab = Convex((HalfSpace((0, 1, 0), 1.0), HalfSpace((1, 0, 0), 1.0), HalfSpace((-1, 0, 0), 1.0)))
    origin_3N = np.array([[-5.0, -5.0], [0.5, 1.5], [0.0, 0.0]])
    direction_3N = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert slab.entry(origin_3N, direction_3N).tolist() == [4.0, np.inf]
