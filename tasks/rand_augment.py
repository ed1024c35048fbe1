"""RandAugment (Cubuk et al., arXiv 1909.13719): a few operations, drawn at random, all of about the same magnitude.

With two changes that timm made and the published recipes rely on: each operation that is drawn is applied with a
probability only, and the magnitude varies from one to the next.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from internimage.tasks import image_operations as ops
from internimage.tasks.images import Image

_MAX_MAGNITUDE = 10


@dataclass(frozen=True)
class Policy:
    """What `rand-m9-mstd0.5-inc1` says; the defaults are what timm takes for a part that is left out."""

    magnitude: int = _MAX_MAGNITUDE
    deviation: float = 0.0  # standard deviation of the magnitude; what leaves 0 to 10 is clipped
    increasing: bool = False  # use the operations whose effect grows with the magnitude, instead of the first paper's
    count: int = 2  # operations that are drawn for a picture
    probability: float = 0.5  # of an operation that was drawn to be applied


class Step(NamedTuple):
    """An operation and its arguments, drawn for one picture."""

    name: str  # in OPERATIONS
    arguments: tuple[float, ...]


@dataclass(frozen=True)
class Operation:
    """How an operation follows from `share`, the magnitude as a share of the largest."""

    apply: Callable[..., Image]
    argument: Callable[[float], float] | None = None  # share -> first argument
    signed: bool = False  # the share is negated half of the time


def _geometric(apply: Callable[..., Image], most: float) -> Operation:
    return Operation(apply, lambda share: most * share, signed=True)


def _enhance(apply: Callable[..., Image]) -> Operation:
    return Operation(apply, lambda share: 0.1 + 1.8 * share)


def _enhance_increasing(apply: Callable[..., Image]) -> Operation:
    return Operation(apply, lambda share: max(0.1, 1 + 0.9 * share), signed=True)


# Names and ranges as in AutoAugment (arXiv 1805.09501, Table 6) and in timm, which added those called Increasing.
OPERATIONS = {
    "AutoContrast": Operation(ops.autocontrast),
    "Equalize": Operation(ops.equalize),
    "Invert": Operation(ops.invert),
    "Rotate": _geometric(ops.rotate, 30),
    "Posterize": Operation(ops.posterize, lambda share: int(4 * share)),
    "PosterizeIncreasing": Operation(ops.posterize, lambda share: 4 - int(4 * share)),
    "Solarize": Operation(ops.solarize, lambda share: int(256 * share)),
    "SolarizeIncreasing": Operation(ops.solarize, lambda share: 256 - int(256 * share)),
    "SolarizeAdd": Operation(ops.solarize_add, lambda share: int(110 * share)),
    "Color": _enhance(ops.colour),
    "ColorIncreasing": _enhance_increasing(ops.colour),
    "Contrast": _enhance(ops.contrast),
    "ContrastIncreasing": _enhance_increasing(ops.contrast),
    "Brightness": _enhance(ops.brightness),
    "BrightnessIncreasing": _enhance_increasing(ops.brightness),
    "Sharpness": _enhance(ops.sharpness),
    "SharpnessIncreasing": _enhance_increasing(ops.sharpness),
    "ShearX": _geometric(ops.shear_x, 0.3),
    "ShearY": _geometric(ops.shear_y, 0.3),
    "TranslateXRel": _geometric(ops.translate_x, 0.45),
    "TranslateYRel": _geometric(ops.translate_y, 0.45),
}

# Of an operation that has an Increasing twin, a policy draws one or the other.
_INCREASING = tuple(name for name in OPERATIONS if name + "Increasing" not in OPERATIONS)
_PLAIN = tuple(name for name in OPERATIONS if not name.endswith("Increasing"))


def rand_augment(image: Image, policy: Policy, rng: np.random.Generator) -> Image:
    """Apply the operations that `draw_steps` draws to a picture, uint8 [H, W, 3]."""
    for name, arguments in draw_steps(policy, rng):
        image = OPERATIONS[name].apply(image, *arguments)
    return image


def draw_steps(policy: Policy, rng: np.random.Generator) -> list[Step]:
    """Draw what is done to one picture, at most `policy.count` operations; the same one may come twice."""
    names = _INCREASING if policy.increasing else _PLAIN
    drawn = [names[i] for i in rng.integers(len(names), size=policy.count)]
    return [_draw_step(name, policy, rng) for name in drawn if rng.random() < policy.probability]


def _draw_step(name: str, policy: Policy, rng: np.random.Generator) -> Step:
    operation = OPERATIONS[name]
    if operation.argument is None:
        return Step(name, ())
    magnitude = policy.magnitude + policy.deviation * rng.standard_normal()
    share = min(max(magnitude, 0), _MAX_MAGNITUDE) / _MAX_MAGNITUDE
    if operation.signed and rng.random() < 0.5:
        share = -share
    return Step(name, (operation.argument(share),))


class _Part(NamedTuple):
    field: str  # of Policy
    type: type[int] | type[float] | type[bool]
    most: float
    meaning: str


_PARTS = {
    "m": _Part("magnitude", int, _MAX_MAGNITUDE, "magnitude, a whole number from 0 to 10"),
    "mstd": _Part("deviation", float, 100, "standard deviation of the magnitude, from 0 to 100"),
    "inc": _Part("increasing", bool, 1, "operations whose effect grows with the magnitude, 0 or 1"),
    "n": _Part("count", int, math.inf, "operations a picture, a whole number"),
    "p": _Part("probability", float, 1, "of applying each of them, from 0 to 1"),
}


@cache
def parse_policy(text: str) -> Policy:
    """Read timm's way of writing a policy, for one `rand-m9-mstd0.5-inc1`: "rand" and parts in any order.

    Raises:
        ValueError: a part is unknown, comes twice, or has no number in its range. (timm clips magnitudes above 10,
            and takes a deviation above 100 for another distribution; here both are errors.)
    """
    first, *parts = text.split("-")
    if first != "rand":
        raise _policy_error(text, first)
    fields: dict[str, Any] = {}
    for written in parts:
        match = re.fullmatch(r"([a-z]+)([0-9]+(\.[0-9]+)?)", written)
        part = _PARTS.get(match[1]) if match else None
        if match is None or part is None or part.field in fields:
            raise _policy_error(text, written)
        value = float(match[2])
        if value > part.most or (part.type is not float and not value.is_integer()):
            raise _policy_error(text, written)
        fields[part.field] = part.type(value)
    return Policy(**fields)


def _policy_error(text: str, written: str) -> ValueError:
    known = "; ".join(f"{key}: {part.meaning}" for key, part in _PARTS.items())
    return ValueError(
        f"rand_augment: can't read {written!r} in {text!r}, expected 'rand' and any of these parts, each once, as in "
        f"'rand-m9-mstd0.5-inc1' ({known})"
    )
