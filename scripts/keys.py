"""Writes docs/keys.md: every key of job and cluster files with its values, default and docstring. Usage: make keys."""

import json
from pathlib import Path
from typing import Any

from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.job import EvaluateSpec, PrepareSpec, PretrainSpec
from orchestrator.spec.section import Section

Schema = dict[str, Any]

ROOT = Path(__file__).parents[1]
HEAD = """# Keys of job and cluster files

Every key, what it may be and what it is where it is not given. Written by `scripts/keys.py` from the docstrings of
`orchestrator/spec/` (`make keys`). A key that a file misspells is refused with the nearest one; `--set a.b=c` sets one
for a single call.
"""
FILES: dict[str, dict[str, type[Section]]] = {
    "Jobs": {"pretrain": PretrainSpec, "compare": CompareSpec, "evaluate": EvaluateSpec, "prepare": PrepareSpec},
    "Clusters": {"cluster": ClusterSpec},
}


def write_page() -> str:
    """The page."""
    seen: set[str] = set()
    parts = [HEAD]
    for title, kinds in FILES.items():
        parts.append(f"## {title}\n")
        sections: dict[str, Schema] = {}
        for name, spec in kinds.items():
            schema = spec.model_json_schema()
            own = schema.get("$defs", {})
            parts.append(_section(f"`kind: {name}`" if title == "Jobs" else "The file", schema, own))
            sections |= own
        parts += [_section(_title(name), sections[name], sections) for name in sections if name not in seen]
        seen |= sections.keys()
    return "\n".join(parts)


def _section(title: str, schema: Schema, sections: dict[str, Schema]) -> str:
    required = schema.get("required", ())
    rows = [
        f"| `{key}` | {_values(value)} | {_default(value, key in required)} | {_text(_describe(value, sections))} |"
        for key, value in schema["properties"].items()
    ]
    head = ["| key | value | where it is not given | |", "| --- | --- | --- | --- |"]
    return "\n".join([f"### {title}\n", _text(schema.get("description", ""), cell=False), "", *head, *rows, ""])


def _describe(schema: Schema, sections: dict[str, Schema]) -> str:
    """A key's own docstring, else the first paragraph of its section's."""
    choices = [schema, *schema.get("anyOf", ())]
    names = [choice["$ref"].rpartition("/")[2] for choice in choices if "$ref" in choice]
    whole: str = schema.get("description", "") or (sections[names[0]].get("description", "") if names else "")
    return whole.partition("\n\n")[0]


def _values(schema: Schema | bool) -> str:
    """What a key may be; ``True``: anything."""
    if isinstance(schema, bool):
        return "any value"
    if "$ref" in schema:
        title = _title(schema["$ref"].rpartition("/")[2])
        return f"[{title}](#{title.lower().replace(' ', '-')})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_values(choice) for choice in choices if choice.get("type") != "null"))
    if constants := schema.get("enum") or ([schema["const"]] if "const" in schema else ()):
        return ", ".join(_code(value) for value in constants)
    match schema.get("type"):
        case "array" if "prefixItems" in schema:
            return f"[{', '.join(_values(item) for item in schema['prefixItems'])}]"
        case "array":
            return f"list of {_values(schema.get('items', {}))}"
        case "object":
            by_pattern = schema.get("patternProperties", {}).values()  # where names have a form of their own
            return f"map of names to {_values(next(iter(by_pattern), schema.get('additionalProperties', {})))}"
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number":
            return ("whole number" if schema["type"] == "integer" else "number") + _range(schema)
        case "string":
            return "text"
    return "any value"


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    words = [
        f"{word} {bound:,}"
        for word, bound in (("from", low), ("above", above), ("to", high), ("below", below))
        if bound is not None
    ]
    return " " + " ".join(words) if words else ""


def _default(schema: Schema, is_required: bool) -> str:
    if is_required:
        return "**needed**"
    default = schema.get("default")
    if isinstance(default, dict) and ("$ref" in schema or "anyOf" in schema):
        return "its own defaults"
    if default is None:
        return {"array": "`[]`", "object": "`{}`"}.get(schema.get("type", ""), "none")
    return _code(default)


def _code(value: Any) -> str:
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def _title(name: str) -> str:
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name.removesuffix("Spec")).strip()


def _text(docstring: str, cell: bool = True) -> str:
    words = " ".join(docstring.split()) if cell else docstring
    return words.replace("``", "`").replace("|", "\\|" if cell else "|")


if __name__ == "__main__":
    (ROOT / "docs" / "keys.md").write_text(write_page(), encoding="utf-8")
