"""Schemas of what is applied to Kubernetes: KubeRay's own definitions, strict, and those of the built-in kinds."""

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CRDS = ROOT.parent / "shared" / "kuberay-crds"
KUBERNETES_VERSION = "1.34"

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_manifests(text: str) -> list[dict[str, Any]]:
    """Every document of a file of manifests."""
    return [document for document in yaml.load_all(text, Loader=_LOADER) if document]


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raise unless the API server would take it as it is, every key known. Skips where the schema is not at hand."""
    if manifest["apiVersion"].startswith("ray.io/"):
        jsonschema.Draft7Validator(_ray_schema(manifest["kind"], manifest["apiVersion"])).validate(manifest)
        return
    validator = pytest.importorskip("kubernetes_validate", reason="built-in kinds are checked where dev is installed")
    validator.validate(manifest, KUBERNETES_VERSION, strict=True)


@cache
def _ray_schema(kind: str, api_version: str) -> dict[str, Any]:
    file = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    definition = yaml.load(file.read_text(), Loader=_LOADER)
    version = api_version.removeprefix("ray.io/")
    (schema,) = [found["schema"] for found in definition["spec"]["versions"] if found["name"] == version]
    root = schema["openAPIV3Schema"]
    root["properties"]["metadata"] = {"type": "object"}  # the API server's own, left open in definitions
    return _strict(root)


def _strict(schema: Any) -> Any:
    """The API server drops keys that a definition does not know without a word; here they are mistakes."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items() if not isinstance(value, str) or key == "type"}
    is_open = "additionalProperties" in found or "x-kubernetes-preserve-unknown-fields" in found
    if isinstance(found.get("properties"), dict) and not is_open:
        found["additionalProperties"] = False
    return found
