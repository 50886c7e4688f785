"""Chance: which scene stands at (seed, split, index).

A scene is a pure function of that triple, so shards can be written in any order by any number of processes, and
splits are disjoint streams. The factors that evaluation asks for are dealt like decks of cards: every run of n
indices from a multiple of n holds each of n values once, so each factor is balanced to within one in any prefix,
in an order that says nothing about any other factor.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from orchestrator.data.scenes.palette import COLORS, GROUNDS, SKIES
from orchestrator.data.scenes.scene import TAN_HALF_VIEW, Camera, Light, Scene, SceneObject
from orchestrator.data.scenes.solids import SOLIDS

SPLITS = ("train", "val", "eval")
NUM_OBJECTS = (1, 2, 3, 4)
LIGHT_DIRECTIONS = ("right", "far right", "far", "far left", "left", "near left", "near", "near right")
CAMERA_HEIGHTS_M = {"low": (0.9, 1.5), "middle": (2.3, 2.9), "high": (3.9, 4.7)}

_STREAMS = ("scene", "shape", "color", "num_objects", "light", "camera", "caption")
_LARGEST_RADIUS_M = (1.4, 1.5)
_OTHER_RADIUS_M = (0.42, 0.60)
_MOST_YAW = math.radians(40)  # a torus still shows its hole, a brick its length
_DEPTH_MARGIN_M = 0.35  # between the largest object's centre and any other's, along the view axis
_FRAME = 0.95  # how far from the image centre a silhouette may reach
_TRIES_PER_OBJECT = 60

_Value = TypeVar("_Value")


def random_stream(seed: int, split: str, stream: str, number: int) -> np.random.Generator:
    """The generator of one stream; always four words of seed, so that no two streams coincide."""
    return np.random.default_rng([seed, SPLITS.index(split), _STREAMS.index(stream), number])


def sample_scene(seed: int, split: str, index: int) -> Scene:
    """The scene at (seed, split, index). ``seed`` and ``index`` are at least 0 and below 2**32."""

    def deal(stream: str, values: Sequence[_Value]) -> _Value:
        block, position = divmod(index, len(values))
        return values[random_stream(seed, split, stream, block).permutation(len(values))[position]]

    rng = random_stream(seed, split, "scene", index)
    shape, color = deal("shape", tuple(SOLIDS)), deal("color", tuple(COLORS))
    num_objects = deal("num_objects", NUM_OBJECTS)
    azimuth = 45 * LIGHT_DIRECTIONS.index(deal("light", LIGHT_DIRECTIONS)) + rng.uniform(-15, 15)
    camera = Camera(float(rng.uniform(*CAMERA_HEIGHTS_M[deal("camera", tuple(CAMERA_HEIGHTS_M))])))
    return Scene(
        objects=_sample_objects(rng, camera, shape, color, num_objects),
        ground=str(rng.choice(tuple(GROUNDS))),
        ground_offset=(float(rng.uniform(50, 60)), float(rng.uniform(50, 60))),
        sky=str(rng.choice(tuple(SKIES))),
        light=Light(float(azimuth), float(rng.uniform(25, 60))),
        camera=camera,
    )


def _sample_objects(
    rng: np.random.Generator, camera: Camera, shape: str, color: str, num_objects: int
) -> tuple[SceneObject, ...]:
    """The largest object and the others around it, drawn again as a whole until all stand free and in view."""
    # The largest alone is also the nearest; two in three of the rest make "nearest" an even chance over all.
    something_nearer = num_objects > 1 and rng.random() < 2 / 3
    while True:
        objects = [_largest(rng, shape, color)]
        for position in range(1, num_objects):
            nearer = something_nearer and (position == 1 or bool(rng.integers(2)))
            other = _place_other(rng, camera, objects, nearer)
            if other is None:
                break
            objects.append(other)
        else:
            return tuple(objects)


def _largest(rng: np.random.Generator, shape: str, color: str) -> SceneObject:
    size_m = rng.uniform(*_LARGEST_RADIUS_M) / SOLIDS[shape].radius
    x, z, yaw = rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.2), rng.uniform(-_MOST_YAW, _MOST_YAW)
    return SceneObject(shape, color, float(size_m), float(x), float(z), float(yaw))


def _place_other(
    rng: np.random.Generator, camera: Camera, placed: list[SceneObject], nearer: bool
) -> SceneObject | None:
    """A smaller object nearer or farther than the largest; None when no try found room."""
    shape, color = str(rng.choice(tuple(SOLIDS))), str(rng.choice(tuple(COLORS)))
    size_m = float(rng.uniform(*_OTHER_RADIUS_M) / SOLIDS[shape].radius)
    yaw = float(rng.uniform(-_MOST_YAW, _MOST_YAW))
    for _ in range(_TRIES_PER_OBJECT):
        step_m, u = float(rng.uniform(0.2, 3.2)), float(rng.uniform(-_FRAME, _FRAME))
        z = placed[0].z + (-step_m if nearer else step_m)
        on_axis = SceneObject(shape, color, size_m, 0.0, z, yaw)
        depth_m = camera.project(on_axis.center_3)[2]
        other = replace(on_axis, x=u * depth_m * TAN_HALF_VIEW)
        if _has_room(camera, placed, other, nearer):
            return other
    return None


def _has_room(camera: Camera, placed: list[SceneObject], other: SceneObject, nearer: bool) -> bool:
    u, v, depth_m = camera.project(other.center_3)
    radius = _projected_radius(other, depth_m)
    if max(abs(u), abs(v)) + radius > _FRAME:
        return False
    difference_m = depth_m - camera.project(placed[0].center_3)[2]
    if (-difference_m if nearer else difference_m) < _DEPTH_MARGIN_M:
        return False
    return all(_stand_apart(camera, item, other, (u, v), radius) for item in placed)


def _stand_apart(
    camera: Camera, item: SceneObject, other: SceneObject, other_uv: tuple[float, float], other_radius: float
) -> bool:
    """Whether two solids do not touch, and neither hides more than a rim of the other."""
    if math.hypot(item.x - other.x, item.z - other.z) < item.radius_m + other.radius_m:
        return False
    u, v, depth_m = camera.project(item.center_3)
    apart = math.hypot(u - other_uv[0], v - other_uv[1])
    return apart > 0.8 * (_projected_radius(item, depth_m) + other_radius)


def _projected_radius(item: SceneObject, depth_m: float) -> float:
    return item.radius_m / depth_m / TAN_HALF_VIEW
