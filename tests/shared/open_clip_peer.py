"""What open_clip makes of an exported folder; runs in the environment of ``make bench-peers``, which has open_clip.

    python open_clip_peer.py FOLDER INPUTS.pt OUTPUTS.pt

INPUTS holds ``images`` (uint8 [B, H, W, 3]) and ``captions``; OUTPUTS gets ``image`` and ``text``, of length one.
"""

import sys

import torch
from PIL import Image

# torchvision, which open_clip imports, needs two operators that torch's CPU build lacks.
library = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer


@register_model
def vit_nano_patch8_siglip_32(num_classes: int, global_pool: str, **_: object) -> VisionTransformer:
    """As timm builds SigLIP's towers, in the size of ``vit_nano_32``, by a name for its registry."""
    return VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        class_token=False,
        global_pool=global_pool,
        num_classes=num_classes,
        act_layer="gelu_tanh",
    )


@torch.no_grad()
def main(folder: str, inputs: str, outputs: str) -> None:
    given = torch.load(inputs, weights_only=True)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    images = torch.stack([preprocess(Image.fromarray(image.numpy())) for image in given["images"]])
    image = model.eval().encode_image(images, normalize=True)
    text = model.encode_text(tokenizer(given["captions"]), normalize=True)
    torch.save({"image": image, "text": text}, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
