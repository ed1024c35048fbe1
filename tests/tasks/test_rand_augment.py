"""RandAugment draws what its papers and timm describe: operations, strengths and how often."""

import dataclasses
import importlib.util
import inspect
import itertools
from collections import Counter
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from internimage.tasks.rand_augment import OPERATIONS, Policy, draw_steps, parse_policy, rand_augment

pytestmark = pytest.mark.once

DEFAULT = "rand-m9-mstd0.5-inc1"
INCREASING = [
    *("AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd"),
    *("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"),
    *("ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
]
PLAIN = [name.removesuffix("Increasing") for name in INCREASING]
SIGNED = ["Rotate", *INCREASING[7:]]
LIKELY = 1e-3  # a fixed seed whose draw is less likely than this would be remarkable


def steps(text: str, pictures: int, seed: int = 0) -> list[list]:
    rng = np.random.default_rng(seed)
    return [draw_steps(parse_policy(text), rng) for _ in range(pictures)]


def arguments(text: str, name: str, pictures: int = 2000) -> np.ndarray:
    found = [step.arguments[0] for step in itertools.chain(*steps(text, pictures)) if step.name == name]
    assert len(found) > 100
    return np.array(found)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        (DEFAULT, Policy(magnitude=9, deviation=0.5, increasing=True)),
        ("rand", Policy(magnitude=10, deviation=0.0, increasing=False, count=2, probability=0.5)),
        ("rand-n3-p0.25-m0", Policy(magnitude=0, count=3, probability=0.25)),
        ("rand-inc0-p1-mstd1", Policy(deviation=1.0, probability=1.0)),
    ],
)
def test_a_policy_is_read_as_timm_writes_it(text, policy):
    assert parse_policy(text) == policy


@given(
    st.builds(
        Policy,
        magnitude=st.integers(0, 10),
        deviation=st.integers(0, 1000).map(lambda n: n / 10),
        increasing=st.booleans(),
        count=st.integers(0, 5),
        probability=st.integers(0, 100).map(lambda n: n / 100),
    ),
    st.permutations(range(5)),
)
def test_parts_may_come_in_any_order(policy, order):
    m, mstd, inc, n, p = dataclasses.astuple(policy)
    parts = [f"m{m}", f"mstd{mstd}", f"inc{int(inc)}", f"n{n}", f"p{p}"]
    assert parse_policy("-".join(["rand", *(parts[i] for i in order)])) == policy


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", ""),
        ("original", "original"),
        ("RAND-m9", "RAND"),
        ("rand-", ""),
        ("rand-m", "m"),
        ("rand-m11", "m11"),
        ("rand-m9.5", "m9.5"),
        ("rand-m-1", "m"),
        ("rand-m9-m9", "m9"),
        ("rand-m9-inc2", "inc2"),
        ("rand-mstd101", "mstd101"),
        ("rand-mstdinf", "mstdinf"),
        ("rand-n1.5", "n1.5"),
        ("rand-p1.5", "p1.5"),
        ("rand-p0.5x", "p0.5x"),
        ("rand-m9-w0", "w0"),
        ("rand-mmax5", "mmax5"),
        ("rand-tweights", "tweights"),
        ("rand-m٣", "m٣"),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused_with_all_that_is_known(text, part):
    with pytest.raises(ValueError, match="rand_augment: can't read") as raised:
        parse_policy(text)
    message = str(raised.value)
    assert f"{part!r} in {text!r}" in message
    for known in ("rand-m9-mstd0.5-inc1", "m: magnitude", "mstd: standard", "inc: ", "n: ", "p: "):
        assert known in message


# What the papers' ranges give at magnitudes 0, 5, 9 and 10, before the sign is drawn.
STRENGTHS = {
    "Rotate": (0, 15, 27, 30),
    "Posterize": (0, 2, 3, 4),
    "PosterizeIncreasing": (4, 2, 1, 0),
    "Solarize": (0, 128, 230, 256),
    "SolarizeIncreasing": (256, 128, 26, 0),
    "SolarizeAdd": (0, 55, 99, 110),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), (0.1, 1, 1.72, 1.9)),
    **dict.fromkeys([n for n in SIGNED if n.endswith("Increasing")], (1, 1.45, 1.81, 1.9)),
    **dict.fromkeys(("ShearX", "ShearY"), (0, 0.15, 0.27, 0.3)),
    **dict.fromkeys(("TranslateXRel", "TranslateYRel"), (0, 0.225, 0.405, 0.45)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_strength_follows_the_magnitude(name):
    argument = OPERATIONS[name].argument
    if name not in STRENGTHS:
        assert name in ("AutoContrast", "Equalize", "Invert")
        assert argument is None
        return
    strengths = [argument(magnitude / 10) for magnitude in (0, 5, 9, 10)]
    assert strengths == pytest.approx(STRENGTHS[name])


@pytest.mark.parametrize("name", SIGNED)
def test_the_sign_is_drawn_and_both_are_equally_likely(name):
    neutral = 1 if name.endswith("Increasing") else 0
    values = arguments("rand-m9-p1-inc1", name, 3000)
    assert set(np.round(np.abs(values - neutral), 9)) == {round(abs(STRENGTHS[name][2] - neutral), 9)}
    assert stats.binomtest(int((values > neutral).sum()), len(values)).pvalue > LIKELY


@pytest.mark.parametrize(("text", "names"), [(DEFAULT, INCREASING), ("rand-m9-mstd0.5", PLAIN)])
def test_all_operations_are_equally_likely(text, names):
    drawn = steps(text, 6000)
    counts = Counter(step.name for step in itertools.chain(*drawn))
    assert set(counts) == set(names)
    assert stats.chisquare(list(counts.values())).pvalue > LIKELY
    assert any(len(pair) == 2 and pair[0].name == pair[1].name for pair in drawn)


@pytest.mark.parametrize(("text", "n", "p"), [(DEFAULT, 2, 0.5), ("rand-n4-p0.8", 4, 0.8)])
def test_each_of_n_operations_is_applied_with_probability_p(text, n, p):
    lengths = Counter(map(len, steps(text, 5000, seed=1)))
    expected = stats.binom(n, p).pmf(range(n + 1)) * 5000
    assert stats.chisquare([lengths[count] for count in range(n + 1)], expected).pvalue > LIKELY


@pytest.mark.parametrize(("text", "length"), [("rand-p0", 0), ("rand-n0-p1", 0), ("rand-p1", 2), ("rand-n3-p1", 3)])
def test_certain_and_impossible_operations(text, length):
    assert {len(drawn) for drawn in steps(text, 200)} == {length}


@pytest.mark.parametrize(("mean", "deviation"), [(9, 0.5), (9, 3), (1, 2)])
def test_the_magnitude_is_normal_and_clipped_to_0_and_10(mean, deviation):
    angles = arguments(f"rand-m{mean}-mstd{deviation}-p1-inc1", "Rotate", 12000)
    magnitudes = np.abs(angles) / 3
    normal = stats.norm(mean, deviation)
    for limit, share in ((10, normal.sf(10)), (0, normal.cdf(0))):
        assert stats.binomtest(int((magnitudes == limit).sum()), len(magnitudes), share).pvalue > LIKELY
    inside = magnitudes[(magnitudes > 0) & (magnitudes < 10)]
    truncated = stats.truncnorm((0 - mean) / deviation, (10 - mean) / deviation, mean, deviation)
    assert stats.kstest(inside, truncated.cdf).pvalue > LIKELY


def test_no_increasing_enhancement_falls_below_a_tenth():
    values = arguments("rand-m10-mstd1-p1-inc1", "ColorIncreasing", 4000)
    assert values.min() == 0.1
    assert values.max() == pytest.approx(1.9)


@given(
    seed=st.integers(0, 2**32),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    text=st.sampled_from([DEFAULT, "rand-n5-p1", "rand-m10-mstd5-n5-p1-inc1"]),
)
@settings(max_examples=100, deadline=None)
def test_the_same_state_gives_the_same_picture_whatever_its_size(seed, height, width, text):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    first, second = (rand_augment(image, parse_policy(text), np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)


def test_steps_are_applied_in_the_order_that_they_were_drawn():
    image = np.random.default_rng(0).integers(0, 256, (19, 23, 3), dtype=np.uint8)
    for seed in range(20):
        expected = image
        for name, values in draw_steps(parse_policy("rand-n3-p1-inc1"), np.random.default_rng(seed)):
            expected = OPERATIONS[name].apply(expected, *values)
        augmented = rand_augment(image, parse_policy("rand-n3-p1-inc1"), np.random.default_rng(seed))
        np.testing.assert_array_equal(augmented, expected)


@pytest.fixture(scope="module")
def timms() -> ModuleType:
    """timm's own file, which needs Pillow but not the rest of timm."""
    pytest.importorskip("PIL", reason="timm's file imports Pillow")
    package = importlib.util.find_spec("timm")
    if package is None or package.origin is None:
        pytest.skip("timm is not installed: pip install --no-deps timm")
    spec = importlib.util.spec_from_file_location("timms", Path(package.origin).parent / "data" / "auto_augment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("text", [DEFAULT, "rand", "rand-m7-mstd2-n3-p0.3", "rand-inc1-m4"])
def test_timm_reads_the_same_policy(timms, text):
    theirs, ours = timms.rand_augment_transform(text), parse_policy(text)
    assert theirs.num_layers == ours.count
    assert [operation.name for operation in theirs.ops] == (INCREASING if ours.increasing else PLAIN)
    for operation in theirs.ops:
        assert (operation.magnitude, operation.magnitude_std, operation.prob) == (
            ours.magnitude,
            ours.deviation,
            ours.probability,
        )


@pytest.mark.parametrize("name", OPERATIONS)
def test_timm_takes_the_same_strengths(timms, name):
    ours, theirs = OPERATIONS[name].argument, timms.LEVEL_TO_ARG[name]
    assert (ours is None) == (theirs is None)
    if ours is None:
        return
    for magnitude in np.linspace(0, 10, 41):
        expected = {round(theirs(magnitude, {})[0], 9) for _ in range(30)}  # timm draws the sign in this function
        signs = (1, -1) if OPERATIONS[name].signed else (1,)
        assert {round(ours(sign * magnitude / 10), 9) for sign in signs} == expected


@pytest.mark.parametrize("magnitude", [3, 9])
@pytest.mark.parametrize("name", OPERATIONS)
def test_timm_makes_nearly_the_same_picture(timms, name, magnitude):
    """Nearly, for the fractions that Pillow cuts off and the borders of moved pictures."""
    from PIL import Image

    operation = OPERATIONS[name]
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1), None, 0, 255, cv2.NORM_MINMAX)
    values = () if operation.argument is None else (operation.argument(magnitude / 10),)
    moves = "interpolation" in inspect.signature(operation.apply).parameters
    ours = operation.apply(image, *values, *((cv2.INTER_LINEAR,) if moves else ()))
    options = {"resample": Image.Resampling.BILINEAR, "fillcolor": (124, 116, 104)}
    theirs = np.asarray(timms.NAME_TO_OP[name](Image.fromarray(image), *values, **options))
    assert (ours != image).any()
    assert np.abs(ours.astype(int) - theirs).mean() < 1
