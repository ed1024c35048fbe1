"""An encoder and the targets that it learns to predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from internimage.backbone import InternImage
from internimage.tasks.pretraining.mixing import BLOCK, Mixture
from internimage.tasks.pretraining.targets import CategoryTarget, DenseTarget, Tensors, TextTarget, dense_map
from internimage.tasks.training.distributed import Processes


class PretrainingModel(nn.Module):
    """The objective of M3I (arXiv 2211.09807): from mixtures of images predict the targets of each image.

    Args:
        encoder: what is pre-trained; of the category target its classifier holds the categories' weights.
        images: in a mixture.
        processes: who share each batch; negatives and the regularisers' statistics are of all of them.
        weights: of the targets' losses, by their names.
        dense: predict the momentum copy's map.
        text: predict texts.
        category: predict categories.
    """

    def __init__(
        self,
        encoder: InternImage,
        images: int,
        processes: Processes,
        weights: Mapping[str, float],
        *,
        dense: DenseTarget | None = None,
        text: TextTarget | None = None,
        category: CategoryTarget | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.images, self.processes, self.weights = images, processes, dict(weights)
        self.dense, self.text, self.category = dense, text, category
        if text is None and category is None:
            # No target reaches what comes after the features, so it stays as it was initialised.
            for name, parameter in encoder.head.named_parameters():
                parameter.requires_grad_(name.startswith(("stage3.", "stage4.")))

    def forward(self, batch: Tensors) -> dict[str, Any]:
        """The loss of a batch of N = M * images images, those of a mixture one after the other.

        Args:
            batch: "image" [N, 3, S, S], S a multiple of 32; "blocks" [M, (S / 32)²], see `Mixture`; "label" [N] for the
                category target; and what `DenseTarget` and `TextTarget` take.

        Returns:
            "loss": the weighted sum, [].
            "figures": those of the terms by name, and their mean over the processes is of the whole batch; no gradient.
            "features": [N, C], what each image's blocks give on average; no gradient.
        """
        encoder, processes = self.encoder, self.processes
        mixture = Mixture(batch["blocks"], self.images, batch["image"].shape[-1] // BLOCK)
        maps = encoder.forward_stages(encoder.stem(mixture.mix(batch["image"])))
        features = mixture.shown(encoder.head.merge(maps))
        terms = {}
        if self.dense is not None:
            terms["dense"] = self.dense(dense_map(encoder.head, maps), mixture, batch, processes)
        if self.text is not None or self.category is not None:
            pooled = encoder.forward_head(features[:, :, None], pre_logits=True)
            if self.text is not None:
                terms["text"] = self.text(pooled, batch, processes)
            if self.category is not None:
                terms["category"] = self.category(encoder.get_classifier()(pooled), batch["label"], processes)
        losses = [self.weights[name] * term.loss for name, term in terms.items()]
        return {
            "loss": torch.stack(losses).sum(),
            "figures": {
                name + kind: figure.detach() for name, term in terms.items() for kind, figure in term.figures.items()
            },
            "features": features.detach().mean(1),
        }
