"""Models of other programs, small and with random weights: `transformers`' own classes, and the layouts of others."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from orchestrator.data.tokens import CaptionTokenizer, read_trained_tokenizer, save_tokenizer, train_tokenizer

CONTEXT, IMAGE_SIZE, WIDTH, NUM_LAYERS, PATCH = 16, 32, 32, 2, 8
CAPTIONS = [f"a {color} {shape} on a table" for color in ("red", "green", "blue") for shape in ("cube", "ball", "ring")]


def small_tokenizer() -> CaptionTokenizer:
    """Byte pairs of a few captions."""
    return read_trained_tokenizer(train_tokenizer(CAPTIONS, 300), "captions")


def small_clip(tokenizer: CaptionTokenizer, activation: str = "gelu", seed: int = 0) -> CLIPModel:
    """A ``CLIPModel`` of the sizes of ``vit_nano_32``, made without any code of ours."""
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 2,
        "hidden_act": activation,
    }
    text = {
        **tower,
        "vocab_size": tokenizer.vocabulary_size,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.begin_id,
        "eos_token_id": tokenizer.end_id,
        "pad_token_id": tokenizer.pad_id,
    }
    vision = {**tower, "image_size": IMAGE_SIZE, "patch_size": PATCH}
    torch.manual_seed(seed)
    return _shaken(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)))


def small_siglip(num_tokens: int) -> SiglipModel:
    """A ``SiglipModel`` of those sizes; what its configuration leaves out is as in the released ones."""
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 2,
    }
    text = {**tower, "vocab_size": num_tokens, "max_position_embeddings": CONTEXT, "projection_size": WIDTH}
    vision = {**tower, "image_size": IMAGE_SIZE, "patch_size": PATCH}
    torch.manual_seed(0)
    return _shaken(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)))


def save_siglip(folder: Path) -> SiglipModel:
    """A Hugging Face folder as SigLIP's are: no begin token, and ``</s>`` both ends captions and fills them up."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CAPTIONS, trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    model = small_siglip(tokenizer.get_vocab_size())
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SiglipTokenizer", **special}))
    pixels = {"image_processor_type": "SiglipImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return model


def _shaken(model: Any) -> Any:
    """Its own start is so small that all captions look alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_clip(model: CLIPModel, tokenizer: CaptionTokenizer, folder: Path) -> Path:
    """The Hugging Face folder of a model and its tokenizer."""
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, CONTEXT, folder)
    return folder


def noise_images(number: int = 3) -> Tensor:
    """uint8 [B, H, W, 3]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, IMAGE_SIZE, IMAGE_SIZE, 3), generator=generator, dtype=torch.uint8)
