"""The order of samples: complete, shuffled, the same for any number of processes, and resumable at any step."""

from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internimage.tasks.training.order import Order

pytestmark = pytest.mark.once


def indices(batch):
    return [index for index, _ in batch]


def steps_of(order, world_size, steps):
    """What each step sees over all processes, cut into parts, in their order."""
    streams = [order.batches(rank, world_size, steps) for rank in range(world_size)]
    for _ in steps:
        accumulated = [list(islice(stream, order.parts // world_size)) for stream in streams]
        yield [accumulated[rank][part] for part in range(order.parts // world_size) for rank in range(world_size)]


@given(st.integers(1, 40), st.sampled_from([1, 2, 4]), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_sees_each_image_at_most_once_and_leaves_less_than_a_batch_out(extra, parts, seed, epoch):
    order = Order([20 + extra], 8, parts=parts, seed=seed)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    seen = [index for step in steps for part in range(parts) for index in indices(order.part(step, part))]
    assert len(seen) == len(set(seen)) == (20 + extra) // 8 * 8
    assert set(seen) <= set(range(20 + extra))


@pytest.mark.parametrize("sizes", [[64], [7, 20, 13, 31]])
def test_a_step_is_the_same_for_any_number_of_processes_and_accumulated_parts(sizes):
    steps = range(9)
    alone = [list(chain(*parts)) for parts in steps_of(Order(sizes, 8), 1, steps)]
    for world_size, parts in ((1, 4), (2, 2), (2, 4), (4, 4)):
        order = Order(sizes, 8, parts=parts)
        assert [list(chain(*parts)) for parts in steps_of(order, world_size, steps)] == alone


def test_resuming_gives_what_an_uninterrupted_run_would_see():
    order = Order([30], 4)
    whole = list(order.batches(0, 1, range(20)))
    assert list(order.batches(0, 1, range(11, 20))) == whole[11:]


def test_epochs_seeds_and_samples_differ():
    order = Order([32], 8)
    first, second = ([order.part(4 * epoch + step, 0) for step in range(4)] for epoch in range(2))
    assert [indices(batch) for batch in first] != [indices(batch) for batch in second]
    assert Order([32], 8, seed=1).part(0, 0) != order.part(0, 0)
    seeds = [seed for batch in first + second for _, seed in batch]
    assert len(set(seeds)) == len(seeds)


def test_files_are_shuffled_evenly():
    """Over many epochs every image comes as often to every place."""
    order = Order([10], 10)
    places = np.zeros((10, 10))
    for epoch in range(1000):
        for place, index in enumerate(indices(order.part(epoch, 0))):
            places[index, place] += 1
    assert abs(places - 100).max() < 5 * np.sqrt(100 * 0.9)  # five standard deviations


def test_a_stream_is_read_forwards_within_the_shuffle_buffer():
    sizes = [50] * 8
    order = Order(sizes, 10, streams=2, shuffle_buffer=20)
    for stream in range(2):
        read = [
            index
            for step in range(order.steps_per_epoch)
            for index in indices(order.part(step, 0))[5 * stream : 5 * stream + 5]
        ]
        pieces = [index // 50 for index in read]
        order_of_pieces = list(dict.fromkeys(pieces))
        assert len(order_of_pieces) == 4
        position = {piece: 50 * place for place, piece in enumerate(order_of_pieces)}
        shifts = [place - (position[index // 50] + index % 50) for place, index in enumerate(read)]
        assert max(map(abs, shifts)) < 20
        assert len(set(shifts)) > 10  # it does shuffle


def test_each_process_has_tar_files_of_its_own():
    order = Order([40] * 8, 8, parts=4, streams=4)
    pieces = [
        {index // 40 for batch in order.batches(rank, 4, range(order.steps_per_epoch)) for index, _ in batch}
        for rank in range(4)
    ]
    assert sum(map(len, pieces)) == len(set.union(*pieces)) == 8


def test_streams_of_unequal_tar_files_are_equally_long():
    order = Order([5, 50, 20, 11, 30], 8, streams=2)
    for epoch in range(20):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        seen = [index for step in steps for index, _ in order.part(step, 0)]
        assert len(seen) == len(set(seen)) == order.steps_per_epoch * 8


GROUPS = st.binary(min_size=16, max_size=90).map(lambda text: bytes(byte % 3 for byte in text))


@given(GROUPS, st.sampled_from([1, 2, 4]), st.integers(0, 5), st.integers(0, 3))
def test_a_part_holds_one_group(groups, part_size, seed, epoch):
    order = Order([len(groups)], 2 * part_size, parts=2, seed=seed, groups=groups)
    for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
        for number in range(2):
            part = indices(order.part(step, number))
            assert len(part) == part_size
            assert len({groups[index] for index in part}) == 1


@given(GROUPS, st.sampled_from([1, 2, 4]), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_of_groups_leaves_less_than_a_part_of_each_and_a_part_of_all_out(groups, part_size, seed, epoch):
    order = Order([len(groups)], 2 * part_size, parts=2, seed=seed, groups=groups)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    seen = [index for step in steps for number in range(2) for index in indices(order.part(step, number))]
    small = {group for group in groups if groups.count(group) < part_size}
    large = [index for index in seen if groups[index] not in small]
    assert len(large) == len(set(large))
    left = sum(group not in small for group in groups) - len(large)
    assert left <= (part_size - 1) * (len(set(groups)) - len(small)) + part_size


def test_samples_of_all_groups_are_seen_as_often():
    groups = bytes([0] * 13 + [1] * 29)
    order = Order([42], 8, parts=4, groups=groups)
    steps = range(400 * order.steps_per_epoch)
    seen = [index for step in steps for number in range(4) for index in indices(order.part(step, number))]
    counts = np.bincount(seen, minlength=42)
    assert counts.min() > 0.85 * counts.max()


def test_a_group_smaller_than_a_part_is_repeated():
    order = Order([9], 8, parts=2, groups=bytes([0] * 8 + [1]))
    parts = [tuple(indices(order.part(step, number))) for step in range(20) for number in range(2)]
    assert (8, 8, 8, 8) in parts
    assert all(set(part) == {8} or 8 not in part for part in parts)


def test_groups_are_shared_by_any_number_of_processes_and_resumed_at_any_step():
    order = Order([40], 8, parts=4, groups=bytes(index % 2 for index in range(40)))
    alone = list(steps_of(order, 1, range(12)))
    assert [list(parts) for parts in steps_of(order, 2, range(12))] == alone
    assert [list(parts) for parts in steps_of(order, 4, range(12))] == alone
    assert list(steps_of(order, 2, range(7, 12))) == alone[7:]
    assert alone[:4] != alone[4:8]


def test_without_groups_the_order_is_the_one_that_runs_were_started_with():
    """Written down before there were groups."""
    assert indices(Order([20], 4, seed=3).part(7, 0)) == [0, 3, 11, 12]
    assert Order([20], 4, parts=2, seed=3).part(7, 1)[1] == (12, 112302325725414166)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": [7], "batch_size": 8}, "7 images .* fewer than the batch of 8"),
        ({"sizes": [70], "batch_size": 8, "parts": 3}, "multiple of 3"),
        ({"sizes": [70], "batch_size": 8, "streams": 2}, "as many tar files, there are 1"),
        ({"sizes": [70], "batch_size": 8, "groups": b"01"}, r"each of \[70\] samples, got 2 groups"),
        ({"sizes": [1, 1], "batch_size": 2, "groups": b"01"}, r"each of \[1, 1\] samples, got 2 groups"),
        ({"sizes": [3], "batch_size": 8, "parts": 2, "groups": bytes(3)}, "there are 3 images"),
    ],
)
def test_what_can_not_be_cut_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Order(**arguments)
