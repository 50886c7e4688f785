"""What one scene is: solids on a ground, a sky, a light and a camera. Plain values, no drawing and no chance.

World frame: x right, y up, z away from the viewer (left-handed), metres, ground at y = 0. Camera frame: x right,
y down, z along the view axis, as OpenCV has it.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from orchestrator.data.scenes.solids import SOLIDS, Floats, Solid

FOCUS = (0.0, 0.85, 0.0)  # the camera looks here ...
CAMERA_DISTANCE_M = 6.2  # ... from here
TAN_HALF_VIEW = math.tan(math.radians(22.5))  # square image, 45 degrees across


@dataclass(frozen=True)
class SceneObject:
    """A solid of ``size_m`` metres per unit, turned by ``yaw`` radians about the vertical at (x, z)."""

    shape: str
    color: str
    size_m: float
    x: float
    z: float
    yaw: float

    @property
    def solid(self) -> Solid:
        return SOLIDS[self.shape]

    @property
    def radius_m(self) -> float:
        return self.size_m * self.solid.radius

    @cached_property
    def center_3(self) -> Floats:
        return np.array([self.x, self.size_m * self.solid.rest_height, self.z])

    @cached_property
    def rotation_33(self) -> Floats:
        """Object frame to world frame."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])


@dataclass(frozen=True)
class Light:
    """A distant light; azimuth 0 is from the right, 90 from far away behind the objects, in degrees."""

    azimuth_deg: float
    elevation_deg: float

    @cached_property
    def toward_3(self) -> Floats:
        """Unit vector from the scene to the light, in the world frame."""
        azimuth, elevation = math.radians(self.azimuth_deg), math.radians(self.elevation_deg)
        flat = math.cos(elevation)
        return np.array([flat * math.cos(azimuth), math.sin(elevation), flat * math.sin(azimuth)])


@dataclass(frozen=True)
class Camera:
    """A pinhole ``height_m`` above the ground that looks at ``FOCUS``."""

    height_m: float

    @cached_property
    def eye_3(self) -> Floats:
        rise = self.height_m - FOCUS[1]
        return np.array([FOCUS[0], self.height_m, FOCUS[2] - math.sqrt(CAMERA_DISTANCE_M**2 - rise**2)])

    @cached_property
    def rotation_33(self) -> Floats:
        """World frame to camera frame: rows are right, down, forward."""
        forward = (np.array(FOCUS) - self.eye_3) / CAMERA_DISTANCE_M
        right = np.array([1.0, 0.0, 0.0])
        return np.stack([right, np.cross(right, forward), forward])

    def project(self, point_3: Floats) -> tuple[float, float, float]:
        """Image position (u right, v down, both -1 to 1 within the frame) and depth of a world point."""
        x, y, depth = (self.rotation_33 @ (point_3 - self.eye_3)).tolist()
        return x / depth / TAN_HALF_VIEW, y / depth / TAN_HALF_VIEW, depth

    def directions(self, resolution: int) -> Floats:
        """World directions [3, N] through the centres of resolution x resolution cells, row by row.

        Each is one unit long along the view axis: distance along such a ray is depth.
        """
        cells = (2 * np.arange(resolution) + 1) / resolution - 1
        v_HW, u_HW = np.meshgrid(cells * TAN_HALF_VIEW, cells * TAN_HALF_VIEW, indexing="ij")
        camera_3N = np.stack([u_HW.ravel(), v_HW.ravel(), np.ones(resolution**2)])
        return np.einsum("ji,jn->in", self.rotation_33, camera_3N)


@dataclass(frozen=True)
class Scene:
    """``objects[0]`` is the largest by a clear margin. Ground and sky are names in ``palette``."""

    objects: tuple[SceneObject, ...]
    ground: str
    ground_offset: tuple[float, float]
    sky: str
    light: Light
    camera: Camera
