"""Pictures and ground truth against closed forms and against each other."""

import math

import numpy as np
import pytest

from orchestrator.data.scenes.render import SKY, render_ground_truth, render_image, trace
from orchestrator.data.scenes.sample import sample_scene
from orchestrator.data.scenes.scene import CAMERA_DISTANCE_M, FOCUS, TAN_HALF_VIEW, Camera, Light, Scene, SceneObject
from orchestrator.data.scenes.solids import SOLIDS


def _scene(*objects: SceneObject, height_m: float = 2.0, light: Light | None = None) -> Scene:
    return Scene(objects, "ice", (0.0, 0.0), "noon", light or Light(0.0, 40.0), Camera(height_m))


def _sphere(radius_m: float, x: float = 0.0, z: float = 0.0, color: str = "red") -> SceneObject:
    return SceneObject("sphere", color, radius_m / SOLIDS["sphere"].radius, x, z, 0.0)


def test_a_sphere_at_the_focus_has_the_depth_and_normal_of_its_closed_form() -> None:
    radius_m = FOCUS[1]  # resting on the ground, its centre is the focus
    truth = render_ground_truth(_scene(_sphere(radius_m)), 65)  # odd: a pixel lies on the view axis
    assert truth.mask[32, 32] == 1
    assert truth.depth[32, 32] == pytest.approx(CAMERA_DISTANCE_M - radius_m, abs=1e-5)
    assert truth.normal[32, 32].tolist() == pytest.approx([0, 0, -1], abs=1e-3)


def test_a_spheres_silhouette_has_the_area_of_its_closed_form() -> None:
    radius_m, size = FOCUS[1], 257
    truth = render_ground_truth(_scene(_sphere(radius_m)), size)
    tan_half = radius_m / math.sqrt(CAMERA_DISTANCE_M**2 - radius_m**2)
    expected = math.pi * (tan_half / TAN_HALF_VIEW * size / 2) ** 2
    assert (truth.mask == 1).sum() == pytest.approx(expected, rel=0.01)


def test_ground_depth_is_the_planes_and_its_normal_points_up() -> None:
    height_m, size = 2.5, 64
    truth = render_ground_truth(_scene(_sphere(0.2, x=1.5), height_m=height_m), size)
    sine = (height_m - FOCUS[1]) / CAMERA_DISTANCE_M
    cosine = math.sqrt(1 - sine**2)
    for row in (40, 50, 63):
        v = ((2 * row + 1) / size - 1) * TAN_HALF_VIEW
        assert truth.depth[row, 5] == pytest.approx(height_m / (sine + v * cosine), rel=1e-5)
        assert truth.normal[row, 5].tolist() == pytest.approx([0, -cosine, -sine], abs=1e-3)


def test_normals_are_unit_where_there_is_a_surface_and_zero_in_the_sky() -> None:
    for index in range(30):
        truth = render_ground_truth(sample_scene(0, "eval", index), 64)
        length = np.linalg.norm(truth.normal.astype(np.float64), axis=-1)
        assert np.abs(length[truth.depth > 0] - 1).max() < 2e-3
        assert not length[truth.depth == 0].any()
        assert not truth.mask[truth.depth == 0].any()


def test_normals_face_the_camera() -> None:
    for index in range(30):
        scene = sample_scene(1, "eval", index)
        direction_3N = scene.camera.directions(48)
        hits = trace(scene, direction_3N)
        assert ((hits.normal * direction_3N).sum(axis=0)[hits.instance != SKY] <= 1e-6).all()


def test_boxes_are_the_extent_of_their_masks() -> None:
    for index in range(30):
        scene = sample_scene(2, "eval", index)
        truth = render_ground_truth(scene, 64)
        for k in range(len(scene.objects)):
            left, top, right, bottom = truth.box(k) or pytest.fail(f"object {k} of scene {index} is hidden")
            inside = np.zeros_like(truth.mask, dtype=bool)
            inside[top:bottom, left:right] = True
            shown = truth.mask == k + 1
            assert not (shown & ~inside).any()
            edges = shown[top, :], shown[bottom - 1, :], shown[:, left], shown[:, right - 1]
            assert all(edge.any() for edge in edges)


def test_a_box_is_none_when_nothing_shows() -> None:
    hidden = _scene(_sphere(1.2), _sphere(0.2, z=2.0), height_m=0.9)
    assert render_ground_truth(hidden, 64).box(1) is None


def test_the_shadow_falls_where_the_light_is_blocked() -> None:
    radius_m, size = 0.6, 64
    reach_m = radius_m / math.tan(math.radians(30))  # of the shadow of the sphere's centre
    shadows = {}
    for azimuth_deg, side in ((0.0, -1), (180.0, 1)):  # light from the right, shadow to the left; and back
        scene = _scene(_sphere(radius_m), light=Light(azimuth_deg, 30.0))
        u, v, _ = scene.camera.project(np.array([side * reach_m, 0.0, 0.0]))
        image = render_image(scene, size).astype(int)
        row, column = int((v + 1) / 2 * size), int((u + 1) / 2 * size)
        shadows[side] = image[row, column].sum(), image[row, size - 1 - column].sum()
    for dark, bright in shadows.values():
        assert dark + 60 < bright


def test_picture_and_mask_agree_on_where_the_object_is() -> None:
    scene = _scene(_sphere(0.55, color="red"), light=Light(270.0, 40.0))
    image, mask = render_image(scene, 64).astype(int), render_ground_truth(scene, 64).mask
    redness = image[..., 0] - image[..., 2]
    assert redness[mask == 1].mean() > 60
    assert redness[mask == 0].max() < redness[mask == 1].mean()


def test_picture_has_the_size_asked_for() -> None:
    image = render_image(sample_scene(0, "train", 0), 48)
    assert image.shape == (48, 48, 3)
    assert image.dtype == np.uint8
