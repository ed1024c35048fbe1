"""The paper's rules give the paper's models."""

import pytest

from internimage.scaling import BASE, DEPTH_FACTOR, WIDTH_FACTOR, Stacking, scale
from internimage.variants import VARIANTS

pytestmark = pytest.mark.once


def test_the_base_is_t() -> None:
    tiny = VARIANTS["internimage_t"]
    assert (BASE.channels, BASE.group_width, BASE.depth, BASE.third_depth) == (64, 16, 4, 18)
    assert (tiny.channels, tiny.depths, tiny.groups) == (64, (4, 4, 18, 4), (4, 8, 16, 32))
    assert scale(BASE, 0) == BASE


def test_a_step_of_phi_doubles_the_cost() -> None:
    assert pytest.approx(2, rel=0.01) == DEPTH_FACTOR * WIDTH_FACTOR**1.99


def test_one_step_from_t_is_s() -> None:
    small = VARIANTS["internimage_s"]
    scaled = scale(BASE, 1)
    assert (scaled.channels, scaled.depths) == (small.channels, small.depths)


@pytest.mark.parametrize(("name", "phi"), [("internimage_b", 2), ("internimage_l", 3)])
def test_published_variants_are_near_the_rule(name: str, phi: float) -> None:
    variant, scaled = VARIANTS[name], scale(BASE, phi)
    assert scaled.channels == variant.channels
    assert sum(scaled.depths) == pytest.approx(sum(variant.depths), rel=0.1)  # the paper rounds by hand


@pytest.mark.parametrize(
    ("name", "phi", "group_width"), [("nano", -1, 16), ("pico", -2, 16), ("femto", -3, 8), ("atto", -4, 8)]
)
def test_small_variants_follow_the_rule(name: str, phi: float, group_width: int) -> None:
    variant = VARIANTS[f"internimage_{name}"]
    assert variant.channels == pytest.approx(64 * 1.36**phi, abs=group_width / 2)
    assert sum(variant.depths) == pytest.approx(30 * 1.09**phi, abs=0.5)
    first, second, third, fourth = variant.depths
    assert first == second == fourth <= third
    assert variant.groups == tuple(variant.channels * 2**i // group_width for i in range(4))


def test_scaling_never_leaves_the_stacking_rules() -> None:
    for phi in range(-12, 8):
        scaled = scale(BASE, phi)
        assert scaled.channels % 16 == 0
        assert 1 <= scaled.depth <= scaled.third_depth


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((60, 16, 4, 18), "multiple of group_width"),
        ((5, 5, 4, 18), "must be even"),
        ((64, 16, 4, 3), "third stage is the deepest"),
        ((64, 16, 0, 18), "at least 1"),
    ],
)
def test_numbers_that_break_the_rules_are_refused(numbers: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stacking(*numbers)
