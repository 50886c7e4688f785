"""The model that MLflow keeps of a promoted run: images and texts to embeddings, by `transformers` and torch alone.

MLflow copies this file beside the exported weights and runs it where the model is loaded (``mlflow.pyfunc``), so it
imports nothing of this package, and no pickle is read.
"""

import io
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer


class Embedder(mlflow.pyfunc.PythonModel):
    """Reads a data frame with a column ``image`` (paths, or bytes of an image file) or ``text``, or with both.

    Returns ``image_embedding`` and ``text_embedding`` accordingly: unit vectors where images and texts meet; of a model
    without a text tower the vision tower's pooled output.
    """

    def load_context(self, context: Any) -> None:
        """Open the exported folder."""
        folder = context.artifacts["export"]
        if not (Path(folder) / "config.json").is_file():
            raise ValueError(
                f"transformers has no class for this model: {folder} holds it as corenet does (corenet.safetensors); "
                f"open it there, or with: orchestrator import {folder} --name NAME"
            )
        self._model = AutoModel.from_pretrained(folder).eval()
        self._processor = AutoImageProcessor.from_pretrained(folder)
        self._has_text = hasattr(self._model, "get_text_features")
        self._tokenizer = AutoTokenizer.from_pretrained(folder) if self._has_text else None

    @torch.no_grad()
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row for each row."""
        found = {}
        if "image" in model_input:
            images = [_open(image) for image in model_input["image"]]
            found["image_embedding"] = list(self._embed_images(images).numpy())
        if "text" in model_input:
            if self._tokenizer is None:
                raise ValueError("the model has no text tower; give it a column 'image' alone")
            texts = list(model_input["text"])
            tokens = self._tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
            pooled = self._model.get_text_features(input_ids=tokens.input_ids).pooler_output
            found["text_embedding"] = list(torch.nn.functional.normalize(pooled, dim=-1).numpy())
        return pd.DataFrame(found, index=model_input.index)

    def _embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
        if not self._has_text:
            plain: torch.Tensor = self._model(pixel_values=pixels).pooler_output
            return plain
        return torch.nn.functional.normalize(self._model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)


def _open(image: str | bytes) -> Image.Image:
    return Image.open(image if isinstance(image, str) else io.BytesIO(image)).convert("RGB")


mlflow.models.set_model(Embedder())
