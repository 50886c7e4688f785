"""What users write is described where it is declared: every section, and every field that is not a section itself."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest

from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.job import EvaluateSpec, PrepareSpec, PretrainSpec
from orchestrator.spec.section import Section


def sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from sections_in(part)


def all_sections() -> list[type[Section]]:
    found: dict[type[Section], None] = {}
    pending: list[type[Section]] = [PretrainSpec, EvaluateSpec, PrepareSpec, CompareSpec, ClusterSpec]
    while pending:
        section = pending.pop()
        if section not in found:
            found[section] = None
            pending += [child for field in section.model_fields.values() for child in sections_in(field.annotation)]
    return list(found)


@pytest.mark.parametrize("section", all_sections(), ids=lambda section: section.__name__)
def test_a_section_and_its_fields_are_described(section: type[Section]) -> None:
    assert section.__doc__
    assert section.__doc__ != Section.__doc__
    for name, field in section.model_fields.items():
        is_tag = len(get_args(field.annotation)) == 1
        is_section = any(True for _ in sections_in(field.annotation))
        assert is_tag or is_section or field.description, f"{section.__name__}.{name} has no docstring"


def test_the_walk_reaches_the_leaves() -> None:
    names = {section.__name__ for section in all_sections()}
    assert {"AugmentationSpec", "S3Spec", "SiglipSpec", "SyntheticSpec", "FaultsSpec"} <= names
