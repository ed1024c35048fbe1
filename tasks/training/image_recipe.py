"""The values of recipes that train a variant of InternImage on whole, augmented images."""

from __future__ import annotations

from dataclasses import dataclass

from internimage.tasks.augment import Augmentation
from internimage.tasks.training.recipe import Recipe, value
from internimage.variants import VARIANTS


@dataclass(frozen=True)
class ImageRecipe(Recipe):
    """The values of classification and pre-training.

    Raises:
        ValueError: a value out of its range.
    """

    image_size: int | None = value(None, help="side of the training images, pixels; none: the variant's")
    crop_scale: tuple[float, ...] = value((0.08, 1.0), help="least and largest share of the area in a random crop")
    flip: float = value(0.5, help="probability of a horizontal flip")
    rand_augment: str = value("rand-m9-mstd0.5-inc1", help="RandAugment, in timm's spelling; '' for none")
    color_jitter: float = value(0.4, help="brightness, contrast and saturation, where there is no RandAugment")
    erasing: float = value(0.0, help="probability of random erasing")
    label_smoothing: float = value(0.1, help="share of the target that is spread over all classes")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("flip", "erasing", "label_smoothing"):
            self._check(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        self._check("image_size", self.image_size is None or self.image_size >= 32, "at least 32")
        self._check("model", self.model in VARIANTS, f"one of {', '.join(VARIANTS)}")
        self._check("crop_scale", len(self.crop_scale) == 2, "two numbers")
        self.augmentation()

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return self.image_size or VARIANTS[self.model].image_size

    def augmentation(self) -> Augmentation:
        """What happens to a training image."""
        least, largest = self.crop_scale
        return Augmentation(
            size=self.size,
            crop_scale=(least, largest),
            flip=self.flip,
            rand_augment=self.rand_augment,
            color_jitter=self.color_jitter,
            erasing=self.erasing,
        )
