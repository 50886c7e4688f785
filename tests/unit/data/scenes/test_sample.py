"""Scenes as a function of (seed, split, index): repeatable, disjoint, balanced and well laid out."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from orchestrator.data.scenes.render import render_ground_truth
from orchestrator.data.scenes.sample import SPLITS, sample_scene
from orchestrator.data.scenes.targets import TARGETS


def test_the_same_triple_gives_the_same_scene() -> None:
    assert sample_scene(3, "eval", 17) == sample_scene(3, "eval", 17)


def test_seeds_splits_and_indices_give_different_scenes() -> None:
    scenes = [sample_scene(seed, split, index) for seed in (0, 1) for split in SPLITS for index in range(40)]
    assert len(set(scenes)) == len(scenes)


@pytest.mark.parametrize("name", ["shape", "color", "num_objects", "light_direction", "camera_height"])
@pytest.mark.parametrize("num_scenes", [100, 240])
def test_dealt_targets_are_balanced_in_every_prefix(name: str, num_scenes: int) -> None:
    target = TARGETS[name]
    counts = Counter(target.value(sample_scene(0, "eval", index)) for index in range(num_scenes))
    assert set(counts) == set(target.classes)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_depth_order_is_an_even_chance() -> None:
    value = TARGETS["depth_order"].value
    nearest = np.mean([value(sample_scene(0, "eval", index)) == "largest nearest" for index in range(360)])
    assert 0.42 < nearest < 0.58


def test_index_modulo_does_not_tell_the_shape() -> None:
    shapes = [sample_scene(0, "eval", index).objects[0].shape for index in range(480)]
    for position in range(12):
        assert len(set(shapes[position::12])) > 6


def test_the_first_object_is_the_largest_by_far() -> None:
    for index in range(200):
        largest, *others = sample_scene(0, "train", index).objects
        assert all(other.radius_m < 0.5 * largest.radius_m for other in others)


def test_objects_do_not_touch() -> None:
    for index in range(200):
        for one, other in combinations(sample_scene(0, "train", index).objects, 2):
            assert np.hypot(one.x - other.x, one.z - other.z) >= one.radius_m + other.radius_m


def test_every_object_shows_and_the_largest_shows_most() -> None:
    largest_shows_most = []
    for index in range(120):
        scene = sample_scene(5, "eval", index)
        pixels = np.bincount(render_ground_truth(scene, 64).mask.ravel(), minlength=len(scene.objects) + 1)[1:]
        assert pixels.min() >= 6
        largest_shows_most.append(pixels.argmax() == 0)
    assert np.mean(largest_shows_most) > 0.95


def test_depth_order_agrees_with_the_rendered_centres() -> None:
    for index in range(100):
        scene = sample_scene(0, "eval", index)
        depths_m = [scene.camera.project(item.center_3)[2] for item in scene.objects]
        assert all(abs(depth_m - depths_m[0]) > 0.3 for depth_m in depths_m[1:])
        nearest = TARGETS["depth_order"].value(scene) == "largest nearest"
        assert nearest == (int(np.argmin(depths_m)) == 0)
