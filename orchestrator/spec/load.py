"""YAML to Spec: ``--set a.b=c`` applied, every error with its file and path.

Owns what job and cluster files say; ``yaml_file.py`` parses them. Does not look at anything they point to (that is
``runs``).
"""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import JobFileError, StorageAccessError
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.credentials import find_credentials
from orchestrator.spec.installed import find_installed, installed_names
from orchestrator.spec.job import EvaluateSpec, PrepareSpec, PretrainSpec
from orchestrator.spec.kinds import Job, JobSpec
from orchestrator.spec.section import Section
from orchestrator.spec.yaml_file import parse_yaml, read_yaml, shown

_UNION_TAGS = ("kind", "name")
_NEEDS_MEANING = ("finite_number", "string_pattern_mismatch")  # which value turns it off, what a pattern is for
_MAY_BE_SECRET = frozenset({"environment", "secrets", "secrets_file", "setup"})
_PLAIN_IN_PATHS = "/!$&'()*+,;=:@"  # RFC 3986; RUN@STEP and the name of a run keep their form

S = TypeVar("S")


def load_job(path: str, overrides: Sequence[str] = ()) -> Job:
    """Read a job file.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` assignments, applied in order; the value is read as YAML.

    Raises:
        JobFileError: the file is missing, is not YAML, or says something a job cannot say.
    """
    document = _apply_overrides(read_yaml(Path(path)), overrides)
    return _validate(TypeAdapter(JobSpec), document, Path(path))


def load_cluster(path: str) -> ClusterSpec:
    """Read ``cluster.yaml`` of a cluster folder (or that file itself); relative folders become absolute.

    Raises:
        JobFileError: the file is missing, is not YAML, or says something a cluster cannot say.
    """
    file = cluster_file(path)
    cluster: ClusterSpec = _validate(TypeAdapter(ClusterSpec), read_yaml(file), file)
    if cluster.submit is not None:
        _check_elsewhere(cluster, file)
    storage = cluster.storage.model_copy(
        update={"data": absolute_uri(cluster.storage.data), "runs": absolute_uri(cluster.storage.runs)}
    )
    return cluster.model_copy(update={"storage": storage})


def _check_elsewhere(cluster: ClusterSpec, file: Path) -> None:
    """A path that begins here would be made there, by another name for everyone who submits."""
    for key, location in (("data", cluster.storage.data), ("runs", cluster.storage.runs)):
        if "://" not in location and not location.startswith("/"):
            raise JobFileError(
                f"{file}: storage.{key}: {location!r} is a folder of the machine that submits; wanted "
                f"s3://BUCKET/PREFIX, or the absolute path of a folder that all machines of the cluster share"
            )


def cluster_file(path: str) -> Path:
    """``cluster.yaml`` of a cluster folder, or that file itself."""
    file = Path(path)
    return file / "cluster.yaml" if os.path.isdir(file) or not file.suffix else file  # Path.is_dir raises on refusal


def absolute_uri(location: str) -> str:
    """``location`` with a scheme: URIs as they are, paths as absolute ``file://`` URIs."""
    if "://" in location:
        return location
    return f"file://{_quoted(str(Path(location).expanduser().absolute()))}"


def join_uri(root: str, location: str) -> str:
    """``location``, a path or URI as the user writes it, below ``root`` when it is relative, else on its own."""
    if "://" in location or location.startswith(("/", "~")):
        return absolute_uri(location)
    path = location.strip("/")
    return f"{root.rstrip('/')}/{_quoted(path) if root.startswith('file://') else path}"


def local_path(uri: str) -> Path:
    """The path of a ``file://`` URI.

    Raises:
        StorageAccessError: it names a host, or has a '?' or '#', behind which nothing belongs to the path.
    """
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise StorageAccessError(f"{uri!r} names the host {parts.netloc!r}; wanted file:///path, of this machine")
    if "?" in uri or "#" in uri:
        raise StorageAccessError(
            f"{uri!r} has a '?' or '#', which end the path of a URI; write %3F or %23 for them (and %25 for '%'), or "
            f"the plain path without file://"
        )
    return Path(unquote(parts.path, errors="surrogateescape"))  # as Python has a name that is no UTF-8


def _quoted(path: str) -> str:
    """As it stands in a URI: ``%``, ``#`` and ``?`` would name another folder there."""
    return quote(os.fsencode(path), safe=_PLAIN_IN_PATHS)


def _apply_overrides(document: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise JobFileError(f"--set {override}: wanted the form a.b=value, for example batch.global_size=512")
        _assign(document, keys, parse_yaml(text, f"--set {override}"), override)
    return document


def _assign(document: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    node = document
    for depth, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            where = _where(keys[: depth + 1])
            raise JobFileError(f"--set {override}: '{where}' is {_given(child, keys)}, which has no keys below it")
        node = child
    node[keys[-1]] = value


def _validate(adapter: TypeAdapter[S], document: dict[str, Any], file: Path) -> S:
    for path in find_credentials(document):
        raise JobFileError(
            f"{file}: {_where(path)} (not shown) carries credentials, which would reach plans, manifests and workers; "
            f"write s3://BUCKET/PREFIX and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        lines = _explain_all(error.errors(include_url=False), document)
        raise JobFileError("\n".join(f"{file}: {line}" for line in lines)) from error


def _explain_all(details: Sequence[Any], document: dict[str, Any]) -> list[str]:
    """One line a mistake. Of a value that may have several forms pydantic tells what each of them lacks."""
    located = [(*_written_path(detail, document), detail) for detail in details if not _is_of_its_items(detail)]
    lines, of_forms = [], dict[tuple[Any, ...], list[Any]]()
    for path, is_form, detail in located:
        if not is_form:
            lines.append(_explain(detail, path))
        elif not any(other[: len(path)] == path != other for other, _, _ in located):
            of_forms.setdefault(path, []).append(detail)  # else it has another form, and something is wrong within it
    for path, forms in of_forms.items():
        wanted = " or ".join(_message(detail).removeprefix("Input should be ") for detail in forms)
        lines.append(f"{_where(path)}: wanted {wanted} (given: {_given(forms[0]['input'], path)})")
    return lines


def _is_of_its_items(detail: Any) -> bool:
    """Whether a list is called too short for the items that are wrong themselves, and told apart."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _where(path: Sequence[Any]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "top level"


def _message(detail: Any) -> str:
    """Pydantic's words, without those of Python."""
    if detail["type"] in ("model_type", "dict_type"):
        return "Input should be keys and values"
    if detail["type"] == "too_short":
        least = detail["ctx"]["min_length"]
        return f"wanted at least {least} item{'s' if least > 1 else ''}"
    message: str = detail["msg"].removeprefix("Value error, ")
    return message.replace("valid tuple", "list")


def _explain(detail: Any, path: tuple[Any, ...]) -> str:
    where = _where(path)
    if detail["type"] == "extra_forbidden":
        choices = _sibling_keys(detail["loc"])
        near = difflib.get_close_matches(str(path[-1]), choices, n=1, cutoff=0.5)
        advice = f"did you mean '{near[0]}'?" if near else f"valid keys here: {', '.join(sorted(choices))}"
        return f"{where}: unknown key '{path[-1]}'; {advice}"
    if detail["type"] == "missing":
        what = "value" if isinstance(path[-1], int) else "key"
        return f"{where}: this {what} is required and is not given"
    if detail["type"] == "union_tag_not_found":
        tag = detail["ctx"]["discriminator"].strip("'")
        return f"{where}.{tag}: this key is required and is not given; it says which keys are valid beside it"
    if detail["type"] in ("union_tag_invalid", "literal_error"):
        expected = detail["ctx"].get("expected_tags") or detail["ctx"].get("expected")
        given = detail["ctx"].get("tag", detail["input"])
        choices = [part.strip(" '") for part in str(expected).replace(" or ", ", ").split(",")]
        if detail["type"] == "union_tag_invalid" and path == ("objective",):
            choices += installed_names()
        near = difflib.get_close_matches(str(given), choices, n=1, cutoff=0.4)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{where}: {shown(given)} is none of {', '.join(choices)}{hint}"
    if not path:  # of the whole file, which nobody needs to see again
        return _message(detail)
    said = f"{where}: {_message(detail)} (given: {_given(detail['input'], path)})"
    if detail["type"] == "string_type" and isinstance(detail["input"], int | float):  # bool is one
        return f"{said}; put it in quotes"
    if detail["type"] in _NEEDS_MEANING and (meaning := _meaning(detail["loc"])):
        return f"{said}; what the key takes: {meaning}"
    return said


def _given(value: Any, path: Sequence[Any]) -> str:
    """A value as it was written, unless somebody may have pasted the secret itself."""
    return "not shown" if _MAY_BE_SECRET.intersection(path) else shown(value)


def _written_path(detail: Any, document: dict[str, Any]) -> tuple[tuple[Any, ...], bool]:
    """The path as the user wrote it, and whether the last part of pydantic's is the name of a form.

    Pydantic puts what it calls a form (the tag of a section, a type) between the keys.
    """
    path: list[Any] = []
    node: Any = document
    is_form = False
    for part in detail["loc"]:
        if part == "[key]":  # it is the key itself that is wrong
            continue
        is_key = isinstance(node, dict) and (
            part in node or (part == detail["loc"][-1] and detail["type"] == "missing")
        )
        is_form = not is_key and not (isinstance(node, list) and isinstance(part, int))
        if not is_form:
            path.append(part)
            node = node.get(part) if isinstance(node, dict) else next(iter(node[part : part + 1]), None)
    return tuple(path), is_form and detail["type"] != "value_error"  # which a section says of its keys together


def _sibling_keys(location: tuple[Any, ...]) -> list[str]:
    """Keys that are valid beside the one at ``location``."""
    fields = (field for section in _sections_at(location) for field in section.model_fields.items())
    return sorted({field.alias or name for name, field in fields})


def _meaning(location: tuple[Any, ...]) -> str | None:
    """The docstring of the key at ``location``."""
    for end in range(len(location), max(0, len(location) - 3), -1):  # of an entry in a table, or its key: the table
        fields = (section.model_fields.get(str(location[end - 1])) for section in _sections_at(location[:end]))
        if found := next((field.description for field in fields if field is not None), None):
            return " ".join(found.replace("``", "'").split())
    return None


def _sections_at(location: tuple[Any, ...]) -> list[type[Section]]:
    """What the section that holds the key at ``location`` may be."""
    sections: list[type[Section]] = [PretrainSpec, EvaluateSpec, PrepareSpec, CompareSpec, ClusterSpec]
    for part in location[:-1]:
        by_tag = [section for section in sections if _tag(section) == part]
        children = [child for section in sections for child in _children(section, str(part))]
        installed = find_installed(str(part)) if not by_tag and not children else None
        # Else it is the name of a form, a key of the user's own, or a number.
        sections = by_tag or children or ([installed] if installed else sections)
    return sections


def _tag(section: type[Section]) -> Any:
    for name in _UNION_TAGS:
        field = section.model_fields.get(name)
        values: tuple[Any, ...] = getattr(field.annotation, "__args__", ()) if field else ()
        if len(values) == 1 and isinstance(values[0], str):
            return values[0]
    return None


def _children(section: type[Section], name: str) -> list[type[Section]]:
    field = section.model_fields.get(name)
    pending: list[Any] = [field.annotation] if field else []
    found: list[type[Section]] = []
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, Section):
            found.append(annotation)
        else:
            pending.extend(getattr(annotation, "__args__", ()))
    return found
