"""Names of parameters, ours and those of the official release: one table, read in both directions.

Detectors and segmentors carry a table of their own as `model.renames`; all others share `INTERNIMAGE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Row = tuple[str, str]  # ours, official


def prefixed(rows: Iterable[Row], ours: str, official: str) -> tuple[Row, ...]:
    """The rows of a part that stands in a larger model under these names, such as "backbone." and "backbone."."""
    return tuple((ours + one, official + other) for one, other in rows)


# {i} and {j} stand for numbers, {p} for the last part of a name (weight, bias, running_mean, ...).
# In official names a norm is a Sequential: the LayerNorm is at index 0 if its input is channels-last, at 1 if not.
BACKBONE_TABLE: tuple[Row, ...] = (
    ("stem.conv1.{p}", "patch_embed.conv1.{p}"),
    ("stem.norm1.{p}", "patch_embed.norm1.1.{p}"),
    ("stem.conv2.{p}", "patch_embed.conv2.{p}"),
    ("stem.norm2.{p}", "patch_embed.norm2.1.{p}"),
    ("stages.{i}.blocks.{j}.norm1.{p}", "levels.{i}.blocks.{j}.norm1.0.{p}"),
    ("stages.{i}.blocks.{j}.dcn.input_proj.{p}", "levels.{i}.blocks.{j}.dcn.input_proj.{p}"),
    ("stages.{i}.blocks.{j}.dcn.depthwise.{p}", "levels.{i}.blocks.{j}.dcn.dw_conv.0.{p}"),
    ("stages.{i}.blocks.{j}.dcn.norm.{p}", "levels.{i}.blocks.{j}.dcn.dw_conv.1.1.{p}"),
    ("stages.{i}.blocks.{j}.dcn.offset.{p}", "levels.{i}.blocks.{j}.dcn.offset.{p}"),
    ("stages.{i}.blocks.{j}.dcn.mask.{p}", "levels.{i}.blocks.{j}.dcn.mask.{p}"),
    ("stages.{i}.blocks.{j}.dcn.center_scale.{p}", "levels.{i}.blocks.{j}.dcn.center_feature_scale_proj_{p}"),
    ("stages.{i}.blocks.{j}.dcn.output_proj.{p}", "levels.{i}.blocks.{j}.dcn.output_proj.{p}"),
    ("stages.{i}.blocks.{j}.res_norm1.{p}", "levels.{i}.blocks.{j}.res_post_norm1.0.{p}"),
    ("stages.{i}.blocks.{j}.layer_scale1.gamma", "levels.{i}.blocks.{j}.gamma1"),
    ("stages.{i}.blocks.{j}.norm2.{p}", "levels.{i}.blocks.{j}.norm2.0.{p}"),
    ("stages.{i}.blocks.{j}.mlp.fc1.{p}", "levels.{i}.blocks.{j}.mlp.fc1.{p}"),
    ("stages.{i}.blocks.{j}.mlp.fc2.{p}", "levels.{i}.blocks.{j}.mlp.fc2.{p}"),
    ("stages.{i}.blocks.{j}.res_norm2.{p}", "levels.{i}.blocks.{j}.res_post_norm2.0.{p}"),
    ("stages.{i}.blocks.{j}.layer_scale2.gamma", "levels.{i}.blocks.{j}.gamma2"),
    ("stages.{i}.level2_norms.{j}.{p}", "levels.{i}.post_norms.{j}.0.{p}"),
    ("stages.{i}.norm.{p}", "levels.{i}.norm.0.{p}"),
    ("stages.{i}.downsample.conv.{p}", "levels.{i}.downsample.conv.{p}"),
    ("stages.{i}.downsample.norm.{p}", "levels.{i}.downsample.norm.1.{p}"),
)
_HEAD_TABLE = (
    # T to XL
    ("head.conv.{p}", "conv_head.0.{p}"),
    ("head.norm.{p}", "conv_head.1.0.{p}"),
    ("head.classifier.{p}", "head.{p}"),
    # H and G; the iNaturalist model
    ("head.stage4.{p}", "dcnv3_head_x4.0.{p}"),
    ("head.stage3.{p}", "dcnv3_head_x3.{p}"),
    ("head.attention.query_norm.{p}", "clip_projector.norm1_q.0.{p}"),
    ("head.attention.key_norm.{p}", "clip_projector.norm1_k.0.{p}"),
    ("head.attention.value_norm.{p}", "clip_projector.norm1_v.0.{p}"),
    ("head.attention.query.weight", "clip_projector.cross_dcn.q.weight"),
    ("head.attention.query.bias", "clip_projector.cross_dcn.q_bias"),
    ("head.attention.key.weight", "clip_projector.cross_dcn.k.weight"),
    ("head.attention.key.bias", "clip_projector.cross_dcn.k_bias"),
    ("head.attention.value.weight", "clip_projector.cross_dcn.v.weight"),
    ("head.attention.value.bias", "clip_projector.cross_dcn.v_bias"),
    ("head.attention.output_proj.{p}", "clip_projector.cross_dcn.proj.{p}"),
    ("head.embedding_norm.{p}", "fc_norm.0.{p}"),
    *(
        (f"head.metadata.{ours}.{name}.{{p}}", f"{official}.{index}.{{p}}")
        for ours, official in (("time", "meta_head_1"), ("place", "meta_head_2"))
        for name, index in (
            ("proj", "0"),
            ("norm", "2"),
            ("fc1", "3.w1"),
            ("norm1", "3.norm_fn1"),
            ("fc2", "3.w2"),
            ("norm2", "3.norm_fn2"),
        )
    ),
    ("head.metadata.norm.{p}", "meta_norm.{p}"),
    ("head.metadata.classifier.{p}", "meta_head.{p}"),
)
COMPOSITE_TABLE: tuple[Row, ...] = (
    *prefixed(BACKBONE_TABLE, "assisting.", "cb_modules.0."),
    *prefixed(BACKBONE_TABLE, "lead.", "cb_modules.1."),
    ("gammas.{i}", "cb_modules.1.gamma{i}"),
    ("links.{i}.{j}.{p}", "cb_linears.{i}.{j}.{p}"),
)


class Renames:
    """A table of names, ours and the official ones, read in both directions.

    Args:
        rows: pairs of ours and official, with {i}, {j} and {p} for the parts that both share.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        rows = tuple(rows)
        self._to_official = _compile(rows)
        self._from_official = _compile((official, ours) for ours, official in rows)

    def to_official(self, keys: Iterable[str]) -> dict[str, str]:
        """Our names -> the official ones.

        Raises:
            ValueError: a key that is not one of ours.
        """
        keys = list(keys)
        renames = _rename(keys, self._to_official)
        unknown = [key for key in keys if key not in renames]
        if unknown:
            raise ValueError(f"to_official: no official name for {len(unknown)} keys, such as {', '.join(unknown[:3])}")
        return renames

    def from_official(self, keys: Iterable[str]) -> dict[str, str]:
        """Official names -> ours. Keys that are not official names are left out."""
        return _rename(keys, self._from_official)


_Rules = list[tuple[re.Pattern[str], str]]


def _compile(rows: Iterable[Row]) -> _Rules:
    """Rows of (from, to) -> patterns and the templates that they fill."""
    rules = []
    for source, target in rows:
        pattern = source.replace(".", r"\.")
        for name, what in (("i", r"\d+"), ("j", r"\d+"), ("p", r"\w+")):
            pattern = pattern.replace(f"{{{name}}}", f"(?P<{name}>{what})")
        rules.append((re.compile(pattern), target))
    return rules


def _rename(keys: Iterable[str], rules: _Rules) -> dict[str, str]:
    renames = {}
    for key in keys:
        for pattern, template in rules:
            if match := pattern.fullmatch(key):
                renames[key] = template.format(**match.groupdict())
                break
    return renames


INTERNIMAGE = Renames(BACKBONE_TABLE + _HEAD_TABLE + COMPOSITE_TABLE)
"""Backbones, classifiers and the composite backbone."""
