"""The solids a scene is made of, and where a ray meets them.

Each solid lives in its own frame (y up, about one unit in radius) and answers two questions: how far along a ray
its surface is entered, and what the outward normal is at a surface point. Convex solids are intersections of
convex parts (half-spaces, quadrics, a cone nappe): the ray is inside the solid where it is inside every part, so
it enters at the latest entry, as in the slab method (Kay and Kajiya 1986). The torus is sphere-traced on its
distance function (Hart 1996) instead of solving its quartic: as exact as needed here and easier to trust.

Placement, colour and light belong to ``scene`` and ``render``.

Legend: 3 coordinates (x, y, z), N rays or points. Distances are multiples of the ray's direction vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TRACE_STEPS = 96
_TRACE_TOLERANCE = 1e-7


def dot(a_3N: Floats, b_3N: Floats) -> Floats:
    """Row by row products: much faster than a sum over an axis of three."""
    return a_3N[0] * b_3N[0] + a_3N[1] * b_3N[1] + a_3N[2] * b_3N[2]


class Body(Protocol):
    """A closed surface in its own frame."""

    def entry(self, origin_3N: Floats, direction_3N: Floats) -> Floats:
        """Distance to the first entry in front of the origin, ``inf`` where the ray misses."""

    def normal(self, point_3N: Floats) -> Floats:
        """Outward normal, of any length, at points on the surface."""


class Part(Protocol):
    """A convex region: ``level`` is negative inside, zero on the surface."""

    def interval(self, origin_3N: Floats, direction_3N: Floats) -> tuple[Floats, Floats]:
        """Where the line through each ray enters and leaves; entry > exit where it never is inside."""

    def level(self, point_3N: Floats) -> Floats: ...

    def gradient(self, point_3N: Floats) -> Floats: ...


@dataclass(frozen=True)
class HalfSpace:
    """All points with ``normal . p <= offset``."""

    normal: tuple[float, float, float]
    offset: float

    def interval(self, origin_3N: Floats, direction_3N: Floats) -> tuple[Floats, Floats]:
        speed_N, gap_N = self._along(direction_3N), -self.level(origin_3N)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing_N = gap_N / speed_N
        entry_N = np.where(speed_N < 0, crossing_N, np.where((speed_N == 0) & (gap_N < 0), np.inf, -np.inf))
        return entry_N, np.where(speed_N > 0, crossing_N, np.inf)

    def level(self, point_3N: Floats) -> Floats:
        return self._along(point_3N) - self.offset

    def gradient(self, point_3N: Floats) -> Floats:
        return np.broadcast_to(np.array(self.normal)[:, None], point_3N.shape)

    def _along(self, vector_3N: Floats) -> Floats:
        return dot(np.array(self.normal), vector_3N)


@dataclass(frozen=True)
class Quadric:
    """All points with ``sum((p / radii) ** 2) <= 1``; an infinite radius makes a cylinder along that axis."""

    radii: tuple[float, float, float]

    def interval(self, origin_3N: Floats, direction_3N: Floats) -> tuple[Floats, Floats]:
        scale_31 = 1 / np.array(self.radii)[:, None]
        o_3N, d_3N = origin_3N * scale_31, direction_3N * scale_31
        a_N, b_N, c_N = dot(d_3N, d_3N), dot(o_3N, d_3N), dot(o_3N, o_3N) - 1
        discriminant_N = b_N**2 - a_N * c_N
        with np.errstate(divide="ignore", invalid="ignore"):
            root_N = np.sqrt(discriminant_N)
            entry_N, exit_N = (-b_N - root_N) / a_N, (-b_N + root_N) / a_N
        along_axis_N = a_N == 0
        outside_N = np.where(along_axis_N, c_N > 0, discriminant_N < 0)
        entry_N = np.where(outside_N, np.inf, np.where(along_axis_N, -np.inf, entry_N))
        return entry_N, np.where(outside_N, -np.inf, np.where(along_axis_N, np.inf, exit_N))

    def level(self, point_3N: Floats) -> Floats:
        scaled_3N = point_3N / np.array(self.radii)[:, None]
        return dot(scaled_3N, scaled_3N) - 1

    def gradient(self, point_3N: Floats) -> Floats:
        return point_3N / np.square(self.radii)[:, None]


@dataclass(frozen=True)
class ConeNappe:
    """All points below ``apex_y`` within ``slope * (apex_y - y)`` of the y axis."""

    apex_y: float
    slope: float

    def interval(self, origin_3N: Floats, direction_3N: Floats) -> tuple[Floats, Floats]:
        (x, y, z), (dx, dy, dz) = origin_3N, direction_3N
        drop_N, k = self.apex_y - y, self.slope**2
        a_N = dx**2 + dz**2 - k * dy**2
        b_N = x * dx + z * dz + k * drop_N * dy
        c_N = x**2 + z**2 - k * drop_N**2
        # A line steeper than the cone (a < 0) always meets it: rounding must not turn a touch into a miss.
        discriminant_N = b_N**2 - a_N * c_N
        with np.errstate(divide="ignore", invalid="ignore"):
            root_N = np.sqrt(np.where(a_N < 0, np.maximum(discriminant_N, 0), discriminant_N))
            near_N, far_N = np.sort(np.stack([(-b_N - root_N) / a_N, (-b_N + root_N) / a_N]), axis=0)
            below_N = drop_N - 0.5 * (near_N + far_N) * dy > 0
        steep_down_N, steep_up_N = (a_N < 0) & (dy < 0), (a_N < 0) & (dy > 0)
        crosses_N = (a_N > 0) & (discriminant_N >= 0) & below_N
        entry_N = np.select(
            [steep_down_N, steep_up_N, crosses_N], [far_N, np.full_like(far_N, -np.inf), near_N], np.inf
        )
        exit_N = np.select([steep_down_N, steep_up_N, crosses_N], [np.full_like(far_N, np.inf), near_N, far_N], -np.inf)
        return entry_N, exit_N

    def level(self, point_3N: Floats) -> Floats:
        x, y, z = point_3N
        return np.hypot(x, z) - self.slope * (self.apex_y - y)

    def gradient(self, point_3N: Floats) -> Floats:
        x, _, z = point_3N
        return np.stack([x, self.slope * np.hypot(x, z), z])


@dataclass(frozen=True)
class Convex:
    """The intersection of convex parts."""

    parts: tuple[Part, ...]

    def entry(self, origin_3N: Floats, direction_3N: Floats) -> Floats:
        entry_N, exit_N = self.parts[0].interval(origin_3N, direction_3N)
        for part in self.parts[1:]:
            part_entry_N, part_exit_N = part.interval(origin_3N, direction_3N)
            entry_N, exit_N = np.maximum(entry_N, part_entry_N), np.minimum(exit_N, part_exit_N)
        return np.where((entry_N < exit_N) & (entry_N > 0), entry_N, np.inf)

    def normal(self, point_3N: Floats) -> Floats:
        # On the surface the active part has level 0, every other is negative.
        active_N = np.argmax(np.stack([part.level(point_3N) for part in self.parts]), axis=0)
        return np.choose(active_N, np.stack([part.gradient(point_3N) for part in self.parts]))


@dataclass(frozen=True)
class Torus:
    """A tube of radius ``tube`` around a circle of radius ``ring``, standing upright (axis along z)."""

    ring: float
    tube: float

    def entry(self, origin_3N: Floats, direction_3N: Floats) -> Floats:
        speed_N = np.sqrt(dot(direction_3N, direction_3N))
        bound = self.ring + self.tube
        start_N, end_N = Quadric((bound, bound, bound)).interval(origin_3N, direction_3N)
        entry_N = np.full_like(speed_N, np.inf)
        active_M = np.flatnonzero((start_N < end_N) & (end_N > 0))
        t_M = np.maximum(start_N[active_M], 0)
        for _ in range(_TRACE_STEPS):
            gap_M = self._distance(origin_3N[:, active_M] + t_M * direction_3N[:, active_M])
            arrived_M = gap_M < _TRACE_TOLERANCE
            entry_N[active_M[arrived_M]] = t_M[arrived_M]
            t_M = t_M + gap_M / speed_N[active_M]
            going_M = ~arrived_M & (t_M < end_N[active_M])
            active_M, t_M = active_M[going_M], t_M[going_M]
            if active_M.size == 0:
                break
        return entry_N

    def normal(self, point_3N: Floats) -> Floats:
        x, y, z = point_3N
        outward_N = 1 - self.ring / np.hypot(x, y)
        return np.stack([x * outward_N, y * outward_N, z])

    def _distance(self, point_3N: Floats) -> Floats:
        x, y, z = point_3N
        return np.hypot(np.hypot(x, y) - self.ring, z) - self.tube


@dataclass(frozen=True)
class Solid:
    """One shape: its body, the ``radius`` of the sphere around its origin, and how high it stands."""

    body: Body
    radius: float
    rest_height: float  # of its origin above the ground


def _slab(half_height: float) -> tuple[Part, ...]:
    return HalfSpace((0, 1, 0), half_height), HalfSpace((0, -1, 0), half_height)


def _ellipsoid(x: float, y: float, z: float) -> Solid:
    return Solid(Convex((Quadric((x, y, z)),)), max(x, y, z), y)


def _box(x: float, y: float, z: float) -> Solid:
    sides = HalfSpace((1, 0, 0), x), HalfSpace((-1, 0, 0), x), HalfSpace((0, 0, 1), z), HalfSpace((0, 0, -1), z)
    return Solid(Convex((*sides, *_slab(y))), float(np.hypot(np.hypot(x, y), z)), y)


def _cylinder(radius: float, half_height: float) -> Solid:
    body = Convex((Quadric((radius, np.inf, radius)), *_slab(half_height)))
    return Solid(body, float(np.hypot(radius, half_height)), half_height)


def _cone(radius: float, half_height: float) -> Solid:
    body = Convex((ConeNappe(half_height, radius / (2 * half_height)), HalfSpace((0, -1, 0), half_height)))
    return Solid(body, float(np.hypot(radius, half_height)), half_height)


def _dome(radius: float) -> Solid:
    return Solid(Convex((Quadric((radius, radius, radius)), HalfSpace((0, -1, 0), 0))), radius, 0)


def _pyramid(half_width: float, half_height: float) -> Solid:
    rise, run = float(half_width), 2 * half_height  # a side's outward normal leans up by rise : run
    sides = [HalfSpace((x * run, rise, z * run), rise * half_height) for x, z in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    body = Convex((*sides, HalfSpace((0, -1, 0), half_height)))
    return Solid(body, float(np.hypot(half_width * np.sqrt(2), half_height)), half_height)


def _prism(half_width: float, half_height: float, half_length: float) -> Solid:
    rise, run = float(half_width), 2 * half_height
    sides = [HalfSpace((x * run, rise, 0), rise * half_height) for x in (1, -1)]
    ends = [HalfSpace((0, 0, z), half_length) for z in (1, -1)]
    body = Convex((*sides, *ends, HalfSpace((0, -1, 0), half_height)))
    return Solid(body, float(np.hypot(np.hypot(half_width, half_height), half_length)), half_height)


def _octahedron(radius: float) -> Solid:
    faces = [HalfSpace((x, y, z), radius) for x in (1, -1) for y in (1, -1) for z in (1, -1)]
    return Solid(Convex(tuple(faces)), radius, radius)


def _torus(ring: float, tube: float) -> Solid:
    return Solid(Torus(ring, tube), ring + tube, ring + tube)


# In the order of the evaluation classes.
SOLIDS: Mapping[str, Solid] = MappingProxyType(
    {
        "sphere": _ellipsoid(0.85, 0.85, 0.85),
        "egg": _ellipsoid(0.6, 1.0, 0.6),
        "cube": _box(0.65, 0.65, 0.65),
        "brick": _box(1.0, 0.3, 0.4),
        "cylinder": _cylinder(0.55, 0.85),
        "disk": _cylinder(1.0, 0.16),
        "cone": _cone(0.75, 0.85),
        "pyramid": _pyramid(0.8, 0.75),
        "torus": _torus(0.68, 0.27),
        "dome": _dome(0.95),
        "octahedron": _octahedron(1.0),
        "prism": _prism(0.7, 0.6, 0.75),
    }
)
