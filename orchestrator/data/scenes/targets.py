"""What the evaluation split asks of a scene.

Six classifications, two that captions name and four that none does; and which shapes and which colours are in it,
several to a scene, which captions name at times.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from orchestrator.data.scenes.captions import HYPERNYMS
from orchestrator.data.scenes.palette import COLORS
from orchestrator.data.scenes.sample import CAMERA_HEIGHTS_M, LIGHT_DIRECTIONS, NUM_OBJECTS
from orchestrator.data.scenes.scene import Scene
from orchestrator.data.scenes.solids import SOLIDS


@dataclass(frozen=True)
class Target:
    """A question: its classes, which of them a scene is (or holds, any number), and how to ask for them in words.

    ``templates`` are prompts with one ``{}`` for the class; empty when captions do not name the target.
    ``hypernyms`` says which classes captions call by another word.
    """

    classes: tuple[str, ...]
    value: Callable[[Scene], str | list[str]]
    templates: tuple[str, ...] = ()
    hypernyms: Mapping[str, str] = field(default_factory=dict)
    multi_label: bool = False

    @property
    def named_in_captions(self) -> bool:
        return bool(self.templates)

    def describe(self) -> dict[str, Any]:
        """This target as it stands in ``targets.json``."""
        return {
            "classes": list(self.classes),
            "named_in_captions": self.named_in_captions,
            "templates": list(self.templates),
            "hypernyms": dict(self.hypernyms),
            "multi_label": self.multi_label,
        }


def _all_shapes(scene: Scene) -> list[str]:
    present = {item.shape for item in scene.objects}
    return [shape for shape in SOLIDS if shape in present]


def _all_colors(scene: Scene) -> list[str]:
    present = {item.color for item in scene.objects}
    return [color for color in COLORS if color in present]


def _depth_order(scene: Scene) -> str:
    largest_m, *others_m = (scene.camera.project(item.center_3)[2] for item in scene.objects)
    return "largest nearest" if all(largest_m < other_m for other_m in others_m) else "something nearer"


def _light_direction(scene: Scene) -> str:
    return LIGHT_DIRECTIONS[round(scene.light.azimuth_deg / 45) % len(LIGHT_DIRECTIONS)]


def _camera_height(scene: Scene) -> str:
    bins = CAMERA_HEIGHTS_M.items()
    return next(name for name, (low_m, high_m) in bins if low_m <= scene.camera.height_m <= high_m)


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "shape": Target(
            tuple(SOLIDS),
            lambda scene: scene.objects[0].shape,
            templates=(
                "the {}",
                "one {}",
                "a large {}",
                "there is a big {}",
                "look at the {}",
                "a picture of a large {}",
                "an image of a huge {}",
                "a scene with a big {}",
            ),
            hypernyms=HYPERNYMS,
        ),
        "color": Target(
            tuple(COLORS),
            lambda scene: scene.objects[0].color,
            templates=(
                "the {} sphere",
                "one {} cube",
                "a large {} cylinder",
                "there is a big {} cone",
                "look at the {} egg",
                "a picture of a large {} dome",
                "an image of a huge {} pyramid",
                "a scene with a big {} torus",
            ),
        ),
        "num_objects": Target(tuple(map(str, NUM_OBJECTS)), lambda scene: str(len(scene.objects))),
        "depth_order": Target(("largest nearest", "something nearer"), _depth_order),
        "light_direction": Target(LIGHT_DIRECTIONS, _light_direction),
        "camera_height": Target(tuple(CAMERA_HEIGHTS_M), _camera_height),
        "all_shapes": Target(
            tuple(SOLIDS),
            _all_shapes,
            templates=("a {}", "the {}", "a scene with a {}", "a picture of a {}"),
            hypernyms=HYPERNYMS,
            multi_label=True,
        ),
        "all_colors": Target(
            tuple(COLORS),
            _all_colors,
            templates=("a {} sphere", "the {} cube", "a scene with a {} cone", "a picture of a {} object"),
            multi_label=True,
        ),
    }
)
