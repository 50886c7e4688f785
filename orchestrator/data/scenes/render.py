"""Ray tracing of a scene: the picture, and exact depth, normals and instance masks.

One ray per cell from a pinhole camera, nearest surface by ``solids``, Lambert shading with a hemispheric ambient
term, a small highlight and one shadow ray per hit; no bounces. The picture averages 2 x 2 rays per pixel; ground
truth comes from one ray through each pixel's centre, so that it never mixes two surfaces.

Legend: N rays, K rays that meet something, J of these that shine, H W pixels, 3 coordinates or RGB.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.scenes.palette import COLORS, GROUNDS, SKIES, Ground
from orchestrator.data.scenes.scene import Scene, SceneObject
from orchestrator.data.scenes.solids import Floats, dot

SKY, GROUND = -1, 0  # instances; object k of the scene is k + 1
FAR_M = 60.0  # the ground ends here
_SAMPLES_PER_SIDE = 2
_HAZE_M = 30.0
_LIFT_M = 1e-4  # a shadow ray starts this far off its surface
_GRAIN = np.random.default_rng(0).random((64, 64))  # lattice of the noise pattern


@dataclass(frozen=True)
class Hits:
    """The nearest surface along each of N rays."""

    depth: Floats  # [N] along the view axis, inf for sky
    instance: NDArray[np.int64]  # [N] SKY, GROUND, or k + 1 for object k
    normal: Floats  # [3, N] world frame, unit length, 0 for sky


@dataclass(frozen=True)
class GroundTruth:
    """Exact geometry at the centres of H x W pixels."""

    depth: NDArray[np.float32]  # [H, W] metres along the view axis, 0 for sky
    normal: NDArray[np.float16]  # [H, W, 3] camera frame, unit length, 0 for sky
    mask: NDArray[np.uint8]  # [H, W] 0 for ground or sky, k + 1 for object k

    def box(self, index: int) -> tuple[int, int, int, int] | None:
        """Left, top, right, bottom in pixels (right and bottom exclusive); None when nothing of it shows."""
        rows, columns = np.nonzero(self.mask == index + 1)
        if rows.size == 0:
            return None
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def render_image(scene: Scene, size: int) -> NDArray[np.uint8]:
    """The picture, [size, size, 3] uint8 RGB."""
    direction_3N = scene.camera.directions(size * _SAMPLES_PER_SIDE)
    color_3N = _shade(scene, direction_3N, trace(scene, direction_3N))
    blocks = color_3N.reshape(3, size, _SAMPLES_PER_SIDE, size, _SAMPLES_PER_SIDE)
    image_HW3 = blocks.mean(axis=(2, 4)).transpose(1, 2, 0)
    return np.rint(255 * image_HW3.clip(0, 1)).astype(np.uint8)


def render_ground_truth(scene: Scene, size: int) -> GroundTruth:
    """Depth, normals and instances at the pixel centres of the picture."""
    hits = trace(scene, scene.camera.directions(size))
    normal_3N = np.einsum("ij,jn->in", scene.camera.rotation_33, hits.normal)
    return GroundTruth(
        depth=np.where(np.isinf(hits.depth), 0, hits.depth).reshape(size, size).astype(np.float32),
        normal=normal_3N.T.reshape(size, size, 3).astype(np.float16),
        mask=np.maximum(hits.instance, 0).reshape(size, size).astype(np.uint8),
    )


def trace(scene: Scene, direction_3N: Floats) -> Hits:
    """Nearest surface along rays from the camera's eye."""
    eye_3 = scene.camera.eye_3
    with np.errstate(divide="ignore"):
        depth_N = np.where(direction_3N[1] < 0, -eye_3[1] / direction_3N[1], np.inf)
    depth_N[depth_N > FAR_M] = np.inf
    instance_N = np.where(np.isinf(depth_N), SKY, GROUND)
    normal_3N = np.zeros_like(direction_3N)
    normal_3N[1] = instance_N == GROUND
    origin_3N = np.broadcast_to(eye_3[:, None], direction_3N.shape)
    for index, item in enumerate(scene.objects):
        entry_N = _entry(item, origin_3N, direction_3N)
        nearer_K = np.flatnonzero(entry_N < depth_N)
        depth_N[nearer_K], instance_N[nearer_K] = entry_N[nearer_K], index + 1
        point_3K = eye_3[:, None] + entry_N[nearer_K] * direction_3N[:, nearer_K]
        normal_3N[:, nearer_K] = _normal(item, point_3K)
    return Hits(depth_N, instance_N, normal_3N)


def _entry(item: SceneObject, origin_3N: Floats, direction_3N: Floats) -> Floats:
    """Distance to an object, asking its solid only about rays that meet the sphere around it."""
    offset_3N = origin_3N - item.center_3[:, None]
    along_N, beyond_N = dot(offset_3N, direction_3N), dot(offset_3N, offset_3N) - item.radius_m**2
    near_K = np.flatnonzero(along_N**2 >= dot(direction_3N, direction_3N) * beyond_N)
    entry_N = np.full(direction_3N.shape[1], np.inf)
    if near_K.size:
        to_body_33 = item.rotation_33.T / item.size_m
        origin_3K = np.einsum("ij,jk->ik", to_body_33, offset_3N[:, near_K])
        direction_3K = np.einsum("ij,jk->ik", to_body_33, direction_3N[:, near_K])
        entry_N[near_K] = item.solid.body.entry(origin_3K, direction_3K)
    return entry_N


def _normal(item: SceneObject, point_3K: Floats) -> Floats:
    local_3K = np.einsum("ji,jk->ik", item.rotation_33 / item.size_m, point_3K - item.center_3[:, None])
    normal_3K = np.einsum("ij,jk->ik", item.rotation_33, item.solid.body.normal(local_3K))
    return normal_3K / np.sqrt(dot(normal_3K, normal_3K))


def _shade(scene: Scene, direction_3N: Floats, hits: Hits) -> Floats:
    """Colour seen along each ray, [3, N], nominally 0 to 1."""
    color_3N = _sky_color(scene, direction_3N)
    hit_K = np.flatnonzero(hits.instance != SKY)
    sky, toward_3 = SKIES[scene.sky], scene.light.toward_3
    depth_K, normal_3K, view_3K = hits.depth[hit_K], hits.normal[:, hit_K], direction_3N[:, hit_K]
    point_3K = scene.camera.eye_3[:, None] + depth_K * view_3K

    sun_K = _sunlit(scene, point_3K + _LIFT_M * normal_3K) * dot(toward_3, normal_3K).clip(0)
    ambient_K = 0.75 + 0.25 * normal_3K[1]
    light_3K = ambient_K * np.array(sky.ambient)[:, None] + sun_K * np.array(sky.sun)[:, None]
    lit_3K = _albedo(scene, hits.instance[hit_K], point_3K) * light_3K
    shiny_J = np.flatnonzero((hits.instance[hit_K] != GROUND) & (sun_K > 0))
    lit_3K[:, shiny_J] += _highlight(toward_3, normal_3K[:, shiny_J], view_3K[:, shiny_J])

    haze_K = 1 - np.exp(-((depth_K / _HAZE_M) ** 2))
    color_3N[:, hit_K] = lit_3K + haze_K * (np.array(sky.horizon)[:, None] - lit_3K)
    return color_3N


def _highlight(toward_3: Floats, normal_3J: Floats, view_3J: Floats) -> Floats:
    """Reflection of the light by the halfway vector (Blinn 1977)."""
    half_3J = toward_3[:, None] - view_3J / np.sqrt(dot(view_3J, view_3J))
    cosine_J = dot(normal_3J, half_3J).clip(0) / np.sqrt(dot(half_3J, half_3J))
    return 0.25 * cosine_J**40


def _sunlit(scene: Scene, point_3K: Floats) -> NDArray[np.bool_]:
    toward_3K = np.broadcast_to(scene.light.toward_3[:, None], point_3K.shape)
    lit_K = np.ones(point_3K.shape[1], dtype=bool)
    for item in scene.objects:
        lit_K &= np.isinf(_entry(item, point_3K, toward_3K))
    return lit_K


def _sky_color(scene: Scene, direction_3N: Floats) -> Floats:
    sky = SKIES[scene.sky]
    height_N = (3 * direction_3N[1]).clip(0, 1)
    horizon_31, zenith_31 = np.array(sky.horizon)[:, None], np.array(sky.zenith)[:, None]
    return horizon_31 + height_N * (zenith_31 - horizon_31)


def _albedo(scene: Scene, instance_K: NDArray[np.int64], point_3K: Floats) -> Floats:
    table = np.array([(0.0, 0.0, 0.0), *(COLORS[item.color] for item in scene.objects)])
    albedo_3K = table[instance_K].T.copy()
    ground_K = instance_K == GROUND
    x, z = point_3K[0, ground_K] + scene.ground_offset[0], point_3K[2, ground_K] + scene.ground_offset[1]
    albedo_3K[:, ground_K] = _ground_color(GROUNDS[scene.ground], x, z)
    return albedo_3K


def _ground_color(ground: Ground, x: Floats, z: Floats) -> Floats:
    x, z = x / ground.scale_m, z / ground.scale_m
    if ground.pattern == "checker":
        share = (np.floor(x) + np.floor(z)) % 2
    elif ground.pattern == "stripes":
        share = np.floor(x) % 2
    elif ground.pattern == "noise":
        share = 0.6 * _value_noise(x, z) + 0.4 * _value_noise(3.1 * x, 3.1 * z)
    else:
        share = np.zeros_like(x)
    first_31, second_31 = np.array(ground.first)[:, None], np.array(ground.second)[:, None]
    return first_31 + share * (second_31 - first_31)


def _value_noise(x: Floats, z: Floats) -> Floats:
    """Bilinear interpolation of a random lattice, 0 to 1, repeating every 64 cells."""
    column, row = np.floor(x).astype(np.int64), np.floor(z).astype(np.int64)
    fx, fz = x - column, z - row
    left, right, near, far = column % 64, (column + 1) % 64, row % 64, (row + 1) % 64
    near_side = _GRAIN[near, left] + fx * (_GRAIN[near, right] - _GRAIN[near, left])
    far_side = _GRAIN[far, left] + fx * (_GRAIN[far, right] - _GRAIN[far, left])
    return near_side + fz * (far_side - near_side)
