"""What a Kueue queue may hand out, read from the manifests that make it: ``queue.yaml`` beside ``cluster.yaml``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import PlanError
from orchestrator.spec.yaml_file import MAX_FILE_BYTES

_FACTORS = {f"{letter}i": Fraction(2 ** (10 * power)) for power, letter in enumerate("KMGTPE", start=1)}
_FACTORS |= {letter: Fraction(10 ** (3 * power)) for power, letter in enumerate("kMGTPE", start=1)}
_FACTORS |= {"m": Fraction(1, 1000)}
_NOT_A_QUEUE = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError)  # of other keys and values

Documents = list[dict[str, Any]]


@dataclass(frozen=True)
class Flavor:
    """Nodes of one kind, and what of them a queue may hand out at once."""

    name: str
    labels: Mapping[str, str]
    quota: Mapping[str, Fraction | float]
    """By resource; infinite where the queue may borrow without limit from its cohort."""


ResourceGroup = list[Flavor]
"""Flavors among which Kueue chooses for the same resources."""


def read_queue(file: Path, name: str, namespace: str) -> list[ResourceGroup]:
    """The resource groups of the queue that a local queue stands for.

    Raises:
        PlanError: the file cannot be read, or has no such queue.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES:,} bytes")
        documents = [document for document in yaml.safe_load_all(file.read_text(encoding="utf-8")) if document]
        return _find_groups(documents, file, name, namespace)
    except (OSError, yaml.YAMLError, RecursionError, *_NOT_A_QUEUE) as error:
        raise PlanError(f"{file}: does not read as manifests of a Kueue queue: {error!r}; correct it") from error


def parse_quantity(quantity: object) -> Fraction:
    """A Kubernetes quantity (``8``, ``500m``, ``64Gi``) as a number. Raises ValueError."""
    text = str(quantity)
    for suffix, factor in _FACTORS.items():
        if text.endswith(suffix):
            return Fraction(text.removesuffix(suffix)) * factor
    return Fraction(text)


def _find_groups(documents: Documents, file: Path, name: str, namespace: str) -> list[ResourceGroup]:
    local = [
        found
        for found in _of_kind(documents, "LocalQueue", name)
        if found["metadata"].get("namespace", namespace) == namespace
    ]
    if not local:
        raise PlanError(f"{file} has no LocalQueue '{name}' in namespace {namespace}; add it, or correct launch.queue")
    target = local[0]["spec"]["clusterQueue"]
    queues = _of_kind(documents, "ClusterQueue", target)
    if not queues:
        raise PlanError(f"{file} has no ClusterQueue '{target}', which LocalQueue '{name}' names; add it there")
    spec = queues[0]["spec"]
    borrows = bool(spec.get("cohort") or spec.get("cohortName"))
    return [
        [_read_flavor(documents, flavor, borrows) for flavor in group["flavors"]]
        for group in spec.get("resourceGroups", ())
    ]


def _of_kind(documents: Documents, kind: str, name: str) -> Documents:
    return [found for found in documents if found["kind"] == kind and found["metadata"]["name"] == name]


def _read_flavor(documents: Documents, flavor: dict[str, Any], borrows: bool) -> Flavor:
    found = _of_kind(documents, "ResourceFlavor", flavor["name"])
    labels = (found[0].get("spec") or {}).get("nodeLabels") if found else None
    quota = {resource["name"]: _most(resource, borrows) for resource in flavor["resources"]}
    return Flavor(flavor["name"], labels or {}, quota)


def _most(resource: dict[str, Any], borrows: bool) -> Fraction | float:
    nominal = parse_quantity(resource["nominalQuota"])
    if not borrows:
        return nominal
    limit = resource.get("borrowingLimit")
    return math.inf if limit is None else nominal + parse_quantity(limit)
