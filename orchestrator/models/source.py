"""A model that another program made, wherever it lies: its sizes found out, its weights under our names, in fp32.

A file (open_clip, OpenAI, corenet), a folder (Hugging Face, open_clip, an export for corenet) or the name of a
repository on the Hugging Face hub. Our names are those of `transformers`' ``CLIPModel`` or, for SigLIP's towers,
``SiglipModel``; a classifier keeps its name (``classifier.weight``).
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from orchestrator.errors import ModelSourceError
from orchestrator.models.layouts.corenet import WEIGHTS_FILE as CORENET_FILE
from orchestrator.models.layouts.corenet import from_corenet, is_corenet
from orchestrator.models.layouts.hugging_face import from_hugging_face, is_hugging_face
from orchestrator.models.layouts.hugging_face_config import hugging_face_activation, hugging_face_pooling
from orchestrator.models.layouts.open_clip import CONFIG_FILE, WEIGHTS_FILE, from_open_clip, is_open_clip
from orchestrator.models.layouts.open_clip_config import check_open_clip_config
from orchestrator.models.layouts.open_clip_siglip import from_open_clip_siglip, is_open_clip_siglip
from orchestrator.models.sizes import find_preset, has_siglip_towers
from orchestrator.models.weight_files import INDEX_SUFFIX, read_tensors
from orchestrator.spec.presets import CLIP_PIXELS, VARIANTS

logger = logging.getLogger(__name__)

HEAD_FILE, VOCABULARY_FILE, TOKENIZER_FILE = "head.safetensors", "concepts.parquet", "tokenizer.json"
PROCESSOR_FILE = "preprocessor_config.json"
_OPEN_CLIP_FILES = (WEIGHTS_FILE, "open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors")
_HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")
_SHARDED_FILES = tuple(f"{name}{INDEX_SUFFIX}" for name in _HUGGING_FACE_FILES)
_POSITIONS = "embeddings.position_embedding.weight"
_MOST_NAMES = 8  # shown in a message


@dataclass(frozen=True)
class SourceModel:
    """What was read."""

    uri: str
    preset: str
    variant: str
    image_size: int
    state: dict[str, Tensor]
    num_tokens: int | None
    """Rows of the token embedding; none: there is no text tower."""
    context: int | None
    folder: Path | None
    """Where its tokenizer and vocabulary may lie."""
    pooled_at: int | Literal["greatest"] | None = None
    """The token id at which captions are pooled, or their greatest one; none: the files do not say."""
    canonical_captions: bool = False
    """Captions lose case and punctuation before they become tokens, as open_clip's configuration says."""

    @property
    def objective(self) -> str | None:
        """What they were trained for, as what lies beside the towers tells; none: a vision tower alone."""
        if self.num_tokens is not None:
            return "siglip" if "logit_bias" in self.state else "clip"
        return "catlip" if "classifier.weight" in self.state else None

    @property
    def has_siglip_towers(self) -> bool:
        """Whether they are SigLIP's own; else CLIP's, whatever they were trained for."""
        return has_siglip_towers(self.state)


@dataclass(frozen=True)
class _Files:
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    """``open_clip_config.json`` or ``config.json`` with ``preprocessor_config.json``; empty for a lone file."""
    folder: Path | None


def read_model(source: str, variant: str | None = None) -> SourceModel:
    """Read the model at ``source``; ``variant`` says whose towers they are where the files do not.

    Raises:
        ModelSourceError: nothing there, not weights, of a layout, size or kind that is not known (names the keys).
    """
    files = _read_files(source)
    if "model_cfg" in files.config:
        check_open_clip_config(source, files.config["model_cfg"], is_open_clip_siglip(files.tensors))
    state, unknown = _to_our_names(source, files)
    if unknown:
        raise ModelSourceError(f"{source}: no tower here has a place for {shown(unknown)}")
    state = {name: tensor.float() for name, tensor in state.items()}
    kept_variant = _find_variant(source, files, variant, has_siglip_towers(state))
    preset, image_size = find_preset(source, state, files.config)
    positions = state.get(f"text_model.{_POSITIONS}")
    tokens = state.get("text_model.embeddings.token_embedding.weight")
    text_config = files.config.get("model_cfg", {}).get("text_cfg", {})
    return SourceModel(
        uri=source,
        preset=preset,
        variant=kept_variant,
        image_size=image_size,
        state=state,
        num_tokens=None if tokens is None else len(tokens),
        context=None if positions is None else len(positions),
        folder=files.folder,
        pooled_at=None if has_siglip_towers(state) else _pooled_at(files.config),
        canonical_captions=text_config.get("tokenizer_kwargs", {}).get("clean") == "canonicalize",
    )


def shown(names: list[str]) -> str:
    """The first of them, and how many there are."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _read_files(source: str) -> _Files:
    path = Path(source).expanduser()
    if path.is_file():
        return _Files(read_tensors(path), {}, None)
    folder = path if path.is_dir() else _download(source)
    if found := _find_files(folder):
        weights, config_file = found
        config = _read_json(config_file) | _read_json(folder / PROCESSOR_FILE)
        head = read_tensors(folder / HEAD_FILE) if (folder / HEAD_FILE).is_file() else {}
        return _Files({**read_tensors(weights), **head}, config, folder)
    there = shown(sorted(file.name for file in folder.iterdir())) or "nothing"
    raise ModelSourceError(
        f"{source}: wanted config.json with {' or '.join(_HUGGING_FACE_FILES)}, {CONFIG_FILE} with {WEIGHTS_FILE}, or "
        f"{PROCESSOR_FILE} with {CORENET_FILE}; the folder holds {there}"
    )


def holds_model(folder: Path) -> bool:
    """Whether the files of a model lie there, as exports have them."""
    return _find_files(folder) is not None


def _find_files(folder: Path) -> tuple[Path, Path] | None:
    """Weights and configuration."""
    for config_file, weight_files in (
        (CONFIG_FILE, _OPEN_CLIP_FILES),
        ("config.json", (*_HUGGING_FACE_FILES, *_SHARDED_FILES)),
        (PROCESSOR_FILE, (CORENET_FILE,)),
    ):
        found = next((folder / name for name in weight_files if (folder / name).is_file()), None)
        if found is not None and (folder / config_file).is_file():
            return found, folder / config_file
    return None


def _download(name: str) -> Path:
    """A repository of the hub with its weights in one form: most have them in two or three."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        for weights in ("*.safetensors", "*.bin"):
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", weights]))
            if holds_model(folder):
                break
        return folder
    except (OSError, HFValidationError, HfHubHTTPError, ValueError) as error:
        raise ModelSourceError(
            f"{name}: no such file or folder here, and the Hugging Face hub did not give it "
            f"({str(error).strip().splitlines()[0]}); name a weights file, a folder, or a hub name that can be reached"
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ModelSourceError(f"{file}: not JSON ({error})") from error
    return content if isinstance(content, dict) else {}


def _to_our_names(source: str, files: _Files) -> tuple[dict[str, Tensor], list[str]]:
    for is_layout, convert in (
        (is_open_clip, from_open_clip),
        (is_open_clip_siglip, from_open_clip_siglip),
        (is_corenet, from_corenet),
        (is_hugging_face, from_hugging_face),
    ):
        if is_layout(files.tensors):
            return convert(files.tensors)
    raise ModelSourceError(
        f"{source}: wanted the names of open_clip, OpenAI, corenet or a Hugging Face CLIP or SigLIP; found "
        f"{shown(sorted(files.tensors))}"
    )


def _find_variant(source: str, files: _Files, given: str | None, is_siglip: bool) -> str:
    found = _recorded_variant(source, files, is_siglip)
    if found is not None and given is not None and found != given:
        raise ModelSourceError(f"{source}: its files say variant '{found}', but '{given}' is asked for")
    variant = found or given or ("siglip" if is_siglip else "clip")
    if found is None and given is None:
        logger.warning("%s does not say which activation it was trained with; taken: %s", source, variant)
    _check_pixels(source, files.config, variant)
    return variant


def _recorded_variant(source: str, files: _Files, is_siglip: bool) -> str | None:
    if is_corenet(files.tensors):
        return "corenet"
    if "input_resolution" in files.tensors:  # beside the weights in OpenAI's archives alone
        return "openai"
    if "model_cfg" in files.config and is_siglip:  # by what it was trained with, which open_clip's activation is not
        mean = files.config.get("preprocess_cfg", {}).get("mean")
        return "clip" if mean == list(CLIP_PIXELS.mean) else "siglip"
    if "model_cfg" in files.config:
        return "openai" if files.config["model_cfg"].get("quick_gelu") else "clip"
    if files.config:
        activation = hugging_face_activation(source, files.config, is_siglip)
        return next(name for name, variant in VARIANTS.items() if variant.activation == activation)
    return None


def _pooled_at(config: Mapping[str, Any]) -> int | Literal["greatest"] | None:
    if "model_cfg" in config:
        text = config["model_cfg"].get("text_cfg", {})
        return "greatest" if text.get("pool_type", "argmax") == "argmax" else text.get("eos_id")
    return hugging_face_pooling(config) if "text_config" in config else None


def _check_pixels(source: str, config: Mapping[str, Any], variant: str) -> None:
    preprocess, pixels = config.get("preprocess_cfg", {}), VARIANTS[variant].pixels
    for wanted, keys in ((pixels.mean, ("image_mean", "mean")), (pixels.std, ("image_std", "std"))):
        given = config.get(keys[0], preprocess.get(keys[1]))
        if given is not None and any(abs(a - b) > 1e-4 for a, b in zip(given, wanted, strict=True)):
            raise ModelSourceError(
                f"{source}: its images have {keys[1]} {list(given)}; variant '{variant}' has {list(wanted)}"
            )
