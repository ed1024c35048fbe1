"""The recipes of classification. Values without a remark are those of the official release.

Names are those of the official configurations. "our choice" marks what the release leaves undetermined.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from internimage.tasks.training.image_recipe import ImageRecipe
from internimage.tasks.training.recipe import value


@dataclass(frozen=True)
class ClassificationRecipe(ImageRecipe):
    """The values of classification.

    Raises:
        ValueError: a value out of its range.
    """

    init_classifier: Literal["same", "22k-to-1k", "fresh"] = value(
        "fresh", help="classifier of --init: the file's, its ImageNet-1K rows, or a new one times 0.001"
    )
    mixup: float = value(0.0, help="alpha of mixup; 0: none")
    cutmix: float = value(0.0, help="alpha of cutmix; 0: none. With both, a batch gets either with equal chances")
    offset_lr_scale: float = value(
        1.0, help="factor of the learning rate of DCNv3's offsets and centre scales; works with --layer-decay only"
    )
    metadata: bool = value(False, help="use where and when images were taken (iNaturalist)")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mixup", "cutmix", "offset_lr_scale"):
            self._check(name, getattr(self, name) >= 0, "at least 0")


# ImageNet-1K from scratch. Stochastic depth and image size are the variants' own.
_IN1K = ClassificationRecipe(
    model="internimage_t",
    epochs=300,
    warmup_epochs=20,
    batch_size=4096,
    lr_batch=512,
    learning_rate=5e-4,
    warmup_lr=5e-7,
    min_lr=5e-6,
    # The official schedule counts the cosine from step 0: the learning rate falls to 0.989 of its peak in one step
    # when the warm-up ends. The published results were made so.
    schedule="cosine-unshifted",
    ema_decay=0.9999,
    precision="float16",
    mixup=0.8,
    cutmix=1.0,
    erasing=0.25,
)

# ImageNet-22K from scratch, before 1K: 90 epochs (paper), 192 pixels (the file's name says 192 to 384). The rest is
# not published: our choice is the 1K recipe with a shorter warm-up, and a fourth of its learning rate, as Swin
# (arXiv 2103.14030) took for the same data.
_IN22K = replace(
    _IN1K,
    epochs=90,
    warmup_epochs=5,
    image_size=192,
    learning_rate=1.25e-4,
    warmup_lr=1.25e-7,
    min_lr=1.25e-6,
    grad_checkpointing=True,
    shuffle_buffer=20000,
)

# ImageNet-1K after 22K. The paper's results are those without layer decay.
_FROM_22K = replace(
    _IN1K,
    epochs=20,
    warmup_epochs=2,
    batch_size=512,
    learning_rate=2e-5,
    warmup_lr=0.0,
    min_lr=0.0,
    label_smoothing=0.3,
    mixup=0.0,
    cutmix=0.0,
    erasing=0.0,
    init_classifier="22k-to-1k",
    grad_checkpointing=True,
)

# The official layer decay leaves the level-2 norms of H and G at the full learning rate, and its factor for offsets
# is read in this case only: without layer decay the same configuration has no effect.
_LAYER_DECAY: dict[str, Any] = {"layer_decay": 0.9, "offset_lr_scale": 0.1}

_22K_WEIGHTS = {
    "internimage_l_22kto1k_384": "internimage_l.22k_384",
    "internimage_xl_22kto1k_384": "internimage_xl.22k_384",
    "internimage_h_22kto1k_640": "internimage_h.jointto22k_384",
    "internimage_g_22kto1k_512": "internimage_g.jointto22k_384",
}


def _model_of(name: str) -> str:
    return "_".join(name.split("_")[:2])


RECIPES: dict[str, ClassificationRecipe] = {
    **{f"internimage_{letter}_1k_224": replace(_IN1K, model=f"internimage_{letter}") for letter in "tsb"},
    **{f"{model}_22k_192": replace(_IN22K, model=model) for model in ("internimage_l", "internimage_xl")},
    **{
        f"{name}{suffix}": replace(_FROM_22K, model=_model_of(name), init=weights, **extra)
        for name, weights in _22K_WEIGHTS.items()
        for suffix, extra in (("", _LAYER_DECAY), ("_without_lr_decay", {}))
    },
    # Places and dates of iNaturalist 2018 enter by the metadata branch. The batch size is not published: our choice.
    "internimage_h_22ktoinat18_384": replace(
        _FROM_22K,
        model="internimage_h",
        init=_22K_WEIGHTS["internimage_h_22kto1k_640"],
        init_classifier="fresh",
        image_size=384,
        epochs=100,
        warmup_epochs=0,
        drop_path_rate=0.6,
        ema_decay=None,
        metadata=True,
    ),
    # A few thousand images on a small machine: our choice. Small batches, as there are few steps; weak augmentation and
    # no mixing, as a small model has no time to overfit.
    "quick": ClassificationRecipe(
        model="internimage_femto",
        image_size=128,
        epochs=20,
        warmup_epochs=1,
        batch_size=32,
        learning_rate=5e-4,
        min_lr=5e-6,
        drop_path_rate=0.05,
        ema_decay=0.99,
        crop_scale=(0.35, 1.0),
        rand_augment="rand-m5-mstd0.5-inc1",
        workers=1,
    ),
}
