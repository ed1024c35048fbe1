"""Several sources in fixed shares: the same for any number of processes, resumable, evenly spread."""

from collections import Counter
from itertools import chain

import pytest

from internimage.tasks.training.order import Order
from internimage.tasks.training.weighted_order import weighted_order

pytestmark = pytest.mark.once

SIZES = [[40], [7, 20, 13], [100]]  # 180 samples
STARTS = (0, 40, 80, 180)
WEIGHTS = [2, 1, 5]


def source_of(index):
    return sum(index >= start for start in STARTS[1:])


def batch(order, step):
    return list(chain(*(order.part(step, part) for part in range(order.parts))))


def test_each_batch_has_the_shares_of_the_weights_and_so_has_each_part():
    order = weighted_order(SIZES, WEIGHTS, 16, parts=2)
    for step in range(30):
        counts = Counter(source_of(index) for index, _ in batch(order, step))
        assert counts == {0: 4, 1: 2, 2: 10}
        for part in range(2):
            assert Counter(source_of(index) for index, _ in order.part(step, part)) == {0: 2, 1: 1, 2: 5}


def test_a_source_is_gone_through_in_epochs_of_its_own():
    order = weighted_order(SIZES, WEIGHTS, 16)
    assert order.steps_per_epoch == 180 // 16
    keys = [key for step in range(20) for key in batch(order, step)]
    seen = Counter(index for index, _ in keys)
    assert {seen[index] for index in range(40)} == {2}  # 4 a step, 10 steps for 40 samples
    assert {seen[index] for index in range(40, 80)} == {1}
    assert {seen[index] for index in range(80, 180)} == {2}
    assert len({seed for _, seed in keys}) == len(keys)


@pytest.mark.parametrize("options", [{}, {"streams": 2, "shuffle_buffer": 5}])
def test_a_step_is_the_same_for_any_number_of_parts_and_processes_and_resumes(options):
    sizes = [[20, 20], [7, 20, 13], [50, 50]]
    alone = [batch(weighted_order(sizes, WEIGHTS, 16, **options), step) for step in range(25)]
    assert len({tuple(step) for step in alone}) == 25
    for world_size, parts in ((1, 4), (2, 2), (4, 4)):
        order = weighted_order(sizes, WEIGHTS, 16, parts=parts, **options)
        assert [batch(order, step) for step in range(25)] == alone
        shared = [list(order.batches(rank, world_size, range(11, 13))) for rank in range(world_size)]
        assert sorted(chain(*chain(*shared))) == sorted(alone[11] + alone[12])


def test_one_source_has_the_plain_order():
    assert weighted_order([[30]], [1.0], 4, parts=2, seed=3) == Order([30], 4, parts=2, seed=3)


def test_shares_go_to_the_largest_remainders():
    order = weighted_order([[30], [30], [30]], [1, 1, 1], 16)
    assert sorted(Counter(source_of_30(index) for index, _ in batch(order, 0)).values()) == [5, 5, 6]


def source_of_30(index):
    return index // 30


def test_what_can_not_be_shared_is_refused():
    with pytest.raises(ValueError, match=r"weights \[100, 1\] .* leave one without an image in a batch of 8"):
        weighted_order([[30], [30]], [100, 1], 8)
    with pytest.raises(ValueError, match="can't be shared evenly by 3"):
        weighted_order([[30], [30]], [1, 1], 8, parts=3)
