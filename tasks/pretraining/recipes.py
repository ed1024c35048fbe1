"""The recipes of pre-training. Of the published run little is known; every other value is our choice.

docs/pretraining.md lists what the paper and the release tell, and the reasons for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from internimage.tasks.pretraining.mixing import BLOCK
from internimage.tasks.training.image_recipe import ImageRecipe
from internimage.tasks.training.recipe import value

Kind = Literal["boltzmann", "gaussian"]


@dataclass(frozen=True)
class PretrainingRecipe(ImageRecipe):
    """The values of pre-training.

    Raises:
        ValueError: a value out of its range.
    """

    mixed_images: int = value(1, help="images that are mixed into one, by blocks of 32 pixels; 1: none")
    dense_weight: float = value(0.0, help="of the loss of the dense target: the map of a momentum copy; 0: none")
    text_weight: float = value(0.0, help="of the loss of the text target; 0: none")
    category_weight: float = value(0.0, help="of the loss of the category target; 0: none")
    dense_likelihood: Kind = value("gaussian", help="how predicted maps are compared with the momentum copy's")
    text_likelihood: Kind = value("boltzmann", help="how predicted representations of texts are compared with them")
    variance_weight: float = value(1.0, help="of the variance term beside a Gaussian likelihood")
    covariance_weight: float = value(0.04, help="of the decorrelation term beside a Gaussian likelihood")
    target_view: Literal["same", "other"] = value(
        "other", help="of which view of the image the map is predicted: of the input's own or of another"
    )
    dense_cells: int | None = value(None, help="cells of a map that are predicted, drawn at random; none: all")
    decoder_width: int = value(128, help="of the dense decoder, a multiple of 64")
    decoder_layers: int = value(2, help="of the dense decoder")
    momentum: float = value(0.99, help="what the copy of the encoder keeps of itself in the first step")
    momentum_end: float = value(1.0, help="the same in the last step, half a cosine later")
    text_channels: int = value(128, help="of the representation of texts")
    text_width: int = value(128, help="of the layers of the text encoder, a multiple of 64")
    text_layers: int = value(3, help="of the text encoder")
    text_length: int = value(32, help="tokens of a text at most")
    vocabulary: int = value(4096, help="tokens at most, where the tokenizer is trained on the data")
    tokenizer: str | None = value(None, help="tokenizer.json of the library tokenizers; none: trained on the data")
    stored_texts: bool = value(
        False, help="representations of texts (TEXT_CHANNELS numbers) are read from the shards' members emb"
    )
    eval_images: int = value(1024, help="of the validation data at most", free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mixed_images", "decoder_layers", "text_channels", "text_layers", "text_length", "eval_images"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("dense_weight", "text_weight", "category_weight", "variance_weight", "covariance_weight"):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        for name in ("momentum", "momentum_end"):
            self._check(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("decoder_width", "text_width"):
            self._check(name, getattr(self, name) > 0 and getattr(self, name) % 64 == 0, "a multiple of 64")
        self._check("image_size", self.size % BLOCK == 0, f"a multiple of {BLOCK}")
        blocks = (self.size // BLOCK) ** 2
        self._check("mixed_images", self.mixed_images <= blocks, f"at most {blocks}, the blocks of an image")
        self._check(
            "dense_cells", self.dense_cells is None or 1 <= self.dense_cells <= 4 * blocks, f"1 to {4 * blocks}"
        )
        part = self.batch_size // self.accumulation
        self._check("mixed_images", part % self.mixed_images == 0, f"a divisor of {part}, the images of a part")
        if not self.weights:
            raise ValueError("nothing to learn: give --dense-weight, --text-weight or --category-weight above 0")
        for name, nothing in (("frozen_stages", ()), ("layer_decay", None)):
            self._check(name, getattr(self, name) == nothing, "left away: pre-training has no use for it")

    @property
    def weights(self) -> dict[str, float]:
        """Of the targets that are learned."""
        given = {"dense": self.dense_weight, "text": self.text_weight, "category": self.category_weight}
        return {name: weight for name, weight in given.items() if weight > 0}


# A few thousand images on a small machine: the classification's quick recipe with the targets of M3I.
_QUICK = PretrainingRecipe(
    model="internimage_femto",
    image_size=128,
    mixed_images=2,
    dense_weight=1.0,
    text_weight=1.0,
    category_weight=1.0,
    epochs=20,
    warmup_epochs=1,
    batch_size=64,
    learning_rate=1e-3,
    min_lr=1e-5,
    drop_path_rate=0.0,
    crop_scale=(0.35, 1.0),
    rand_augment="rand-m5-mstd0.5-inc1",
    workers=1,
    eval_epochs=5,
)


def _alone(target: str) -> PretrainingRecipe:
    """The quick recipe with one target of the three, and images as they are."""
    weights: dict[str, Any] = {f"{name}_weight": float(name == target) for name in _QUICK.weights}
    return replace(_QUICK, mixed_images=1, **weights)


RECIPES: dict[str, PretrainingRecipe] = {
    "quick": _QUICK,
    "quick_supervised": _alone("category"),
    "quick_clip": _alone("text"),
    "quick_self_supervised": _alone("dense"),
    # The published run: 30 epochs of 427 million images with texts (LAION-400M, YFCC-15M, CC12M) at 224 pixels, two
    # images a mixture, a text space of 768 dimensions. All else is our choice, see docs/pretraining.md.
    "internimage_h_joint_224": PretrainingRecipe(
        model="internimage_h",
        image_size=224,
        mixed_images=2,
        dense_weight=1.0,
        text_weight=1.0,
        dense_cells=49,
        decoder_width=512,
        decoder_layers=4,
        momentum=0.996,
        text_channels=768,
        text_width=768,
        text_layers=12,
        text_length=77,
        vocabulary=49152,
        epochs=30,
        warmup_epochs=1,
        batch_size=32768,
        lr_batch=4096,
        learning_rate=1.25e-4,
        min_lr=1.25e-6,
        beta2=0.95,
        clip_norm=1.0,
        drop_path_rate=0.2,
        crop_scale=(0.5, 1.0),
        rand_augment="",
        precision="bfloat16",
        strategy="fsdp",
        grad_checkpointing=True,
        streams=512,
        save_steps=1000,
        eval_steps=5000,
        log_steps=50,
    ),
}
