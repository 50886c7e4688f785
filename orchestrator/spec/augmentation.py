"""What happens to an image between the shard and the model."""

from pydantic import Field, model_validator

from orchestrator.spec.section import Section


class ColorJitterSpec(Section):
    """Random changes of colour, in this order; each factor is uniform in 1 - x to 1 + x."""

    probability: float = Field(default=0.8, ge=0, le=1)
    """Share of the images that are changed at all."""
    brightness: float = Field(default=0.32, ge=0, le=1)
    """Of the factor on all values."""
    contrast: float = Field(default=0.32, ge=0, le=1)
    """Of the factor on the distance to the image's mean grey."""
    saturation: float = Field(default=0.32, ge=0, le=1)
    """Of the factor on the distance to the pixel's own grey."""
    hue: float = Field(default=0.08, ge=0, le=0.5)
    """Greatest turn about the grey axis, in full turns, either way."""


class RandAugmentSpec(Section):
    """A few operations on each image, drawn from those that change colours and no places (arXiv 1909.13719)."""

    num_operations: int = Field(default=2, ge=1, le=8)
    """Drawn for each image, one after the other, perhaps the same again."""
    magnitude: float = Field(default=9, ge=0, le=10)
    """How strong they are."""


class AugmentationSpec(Section):
    """What happens to an image before it reaches the model; drawn from (seed, epoch, sample).

    Crop and flip happen where the image is decoded, since what lies beside it must follow them; the rest happens on the
    training device, in the order of these fields.
    """

    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Share of the image's area that a random-resized crop keeps (open_clip's CLIP recipe; CatLIP 0.08-1)."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio of that crop, as least and greatest width over height."""
    flip: bool = False
    """Mirror half of the images left to right; off, since captions name sides."""
    color_jitter: ColorJitterSpec | None = None
    """Random brightness, contrast, saturation and hue; none: off, since captions name colours."""
    grayscale: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that lose their colour."""
    rand_augment: RandAugmentSpec | None = None
    """Random operations on colours; none: off."""

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentationSpec":
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale is [{low}, {high}]; wanted 0 < least <= greatest <= 1")
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise ValueError(f"crop_ratio is [{low}, {high}]; wanted 0 < least <= greatest")
        return self
