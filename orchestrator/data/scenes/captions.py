"""What a caption says: always the colour and shape of the largest object, at times the others, ground, hour or shadow.

Content words are single-word nouns whose first WordNet synset bears the word's own name (and colour words, which
are such nouns too). Two shapes are only ever called by their hypernym, so that captions do not hand over every
class that a probe asks for. Never said: how many objects there are, which one is nearer, where the light comes
from, how high the camera stands.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from orchestrator.data.scenes.palette import COLORS
from orchestrator.data.scenes.scene import Scene, SceneObject
from orchestrator.data.scenes.solids import SOLIDS

HYPERNYMS: Mapping[str, str] = MappingProxyType({"octahedron": "polyhedron", "prism": "polyhedron"})
SHAPE_NOUNS: Mapping[str, str] = MappingProxyType({shape: HYPERNYMS.get(shape, shape) for shape in SOLIDS})

_GROUND_PHRASES = {
    "table": "on a table",
    "floor": "on the floor",
    "rug": "on a rug",
    "checkerboard": "on a checkerboard",
    "grass": "on the grass",
    "sand": "on the sand",
    "snow": "in the snow",
    "asphalt": "on the asphalt",
    "clay": "on the clay",
    "ice": "on the ice",
}
_SKY_PHRASES = {
    "morning": "in the morning",
    "noon": "at noon",
    "evening": "in the evening",
    "night": "at night",
    "fog": "in the fog",
}
_FRAMES = (
    "{a}",
    "{the}",
    "one {bare}",
    "there is {a}",
    "this is {a}",
    "here is {a}",
    "look at {the}",
    "a picture of {a}",
    "an image of {a}",
    "a scene with {a}",
    "a drawing of {a}",
)
_FRAMES_AFTER_SETTING = ("{a}", "{the}", "there is {a}")
_LARGE = ("", "", "large ", "big ", "huge ")
_SMALL = ("", "", "small ", "little ", "tiny ")
_LOW_SUN_DEG, _HIGH_SUN_DEG = 40, 46

# Every word a caption can hold: nouns, and the words between them.
NOUNS = frozenset(
    {*SHAPE_NOUNS.values(), *COLORS, *_GROUND_PHRASES, *_SKY_PHRASES}
    | {"picture", "image", "scene", "drawing", "object", "color", "shadow", "light", "side", "left", "right"}
)
CONNECTING_WORDS = frozenset(
    {"a", "an", "the", "one", "there", "is", "this", "here", "look", "at", "of", "with", "and", "in", "on", "to"}
    | {"next", "beside", "near", "its", "large", "big", "huge", "small", "little", "tiny", "long", "short"}
)


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """One caption of the scene, lower case, without punctuation."""
    bare = _name_largest(scene.objects[0], rng)
    frame = _pick(rng, _FRAMES)
    subject = frame.format(a=_with_article(bare), the=f"the {bare}", bare=bare)
    company, setting, light = _mention_others(scene, rng), _mention_setting(scene, rng), _mention_light(scene, rng)
    if frame in _FRAMES_AFTER_SETTING and rng.random() < 0.4:
        return " ".join([*setting, subject, *company, *light])
    return " ".join([subject, *company, *setting, *light])


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _name_largest(item: SceneObject, rng: np.random.Generator) -> str:
    form = _pick(rng, ("{size}{color} {noun}",) * 4 + ("{size}{noun} in {color}", "{size}{noun} of {color} color"))
    return form.format(size=_pick(rng, _LARGE), color=item.color, noun=SHAPE_NOUNS[item.shape])


def _name_other(item: SceneObject, rng: np.random.Generator) -> str:
    noun = SHAPE_NOUNS[item.shape]
    form = _pick(rng, ("{size}{color} {noun}",) * 3 + ("{size}{noun}", "{size}{color} object"))
    return _with_article(form.format(size=_pick(rng, _SMALL), color=item.color, noun=noun))


def _mention_others(scene: Scene, rng: np.random.Generator) -> list[str]:
    """None to all of the other objects: their mention must not count them."""
    others = [scene.objects[k] for k in 1 + rng.permutation(len(scene.objects) - 1)]
    mentioned = others[: rng.integers(len(others) + 1)]
    if not mentioned:
        return []
    first, *rest = mentioned
    return [_relate(scene, first, rng), *(f"and {_name_other(item, rng)}" for item in rest)]


def _relate(scene: Scene, other: SceneObject, rng: np.random.Generator) -> str:
    """The other object in relation to the largest, seen in the picture."""
    name = _name_other(other, rng)
    offset = scene.camera.project(other.center_3)[0] - scene.camera.project(scene.objects[0].center_3)[0]
    side, opposite = ("right", "left") if offset > 0 else ("left", "right")
    neutral = (f"and {name}", f"with {name}", f"beside {name}", f"next to {name}", f"near {name}")
    if abs(offset) < 0.25:
        return _pick(rng, neutral)
    return _pick(
        rng, (*neutral, f"with {name} on its {side}", f"with {name} on the {side} side", f"to the {opposite} of {name}")
    )


def _mention_setting(scene: Scene, rng: np.random.Generator) -> list[str]:
    ground = [_GROUND_PHRASES[scene.ground]] if rng.random() < 0.4 else []
    sky = [_SKY_PHRASES[scene.sky]] if rng.random() < 0.25 else []
    return [*ground, *sky]


def _mention_light(scene: Scene, rng: np.random.Generator) -> list[str]:
    """How high the light stands, at times; never from which side it comes."""
    if rng.random() > 0.2:
        return []
    if scene.light.elevation_deg < _LOW_SUN_DEG:
        return ["with a long shadow"]
    return ["with a short shadow"] if scene.light.elevation_deg > _HIGH_SUN_DEG else ["in the light"]
