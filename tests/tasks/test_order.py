"""The order of the samples: epochs that go through the set once, and epochs cut from an endless stream of rounds."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from kdbench.tasks import order

SEED = (5, 0)


def taken(epochs: range, samples: int, count: int, endless: bool) -> list[list[order.Key]]:
    """The keys of every epoch."""
    return [order.keys(SEED, samples, order.parts(epoch, samples, count, endless)) for epoch in epochs]


def test_places_tell_the_rounds_apart() -> None:
    places = order.permuted(np.random.default_rng(0), 4, 10)
    assert places.dtype == np.int64
    assert [sorted(part) for part in (places[:4], places[4:8])] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert set(places[8:]) < {8, 9, 10, 11}


def test_the_first_keys_of_a_seed_never_change() -> None:
    one, other = taken(range(2), 5, 4, endless=True)
    assert one == [(5, 0, 0, n) for n in (4, 3, 1, 2)]
    assert other == [(5, 0, 0, 0), *((5, 0, 1, n) for n in (4, 0, 2))]
    assert taken(range(1, 2), 5, 4, endless=False) == [[(5, 0, 1, n) for n in (4, 0, 2, 3)]]


@pytest.mark.parametrize("count", [1, 3, 6, 7, 8, 20, 23])
def test_an_endless_stream_shows_every_sample_once_a_round_under_draws_of_its_own(count: int) -> None:
    epochs = taken(range(21), 7, count, endless=True)
    assert {len(epoch) for epoch in epochs} == {count}
    stream = list(chain(*epochs))
    assert len(set(stream)) == len(stream)
    for start in range(0, len(stream) - 6, 7):
        turn = stream[start : start + 7]
        assert sorted(number for *_, number in turn) == list(range(7))
        assert {key[:3] for key in turn} == {(*SEED, start // 7)}


def test_it_does_not_matter_into_what_epochs_an_endless_stream_is_cut() -> None:
    streams = [list(chain(*taken(range(60 // count), 7, count, endless=True))) for count in (1, 4, 10, 30, 60)]
    assert all(stream == streams[0] for stream in streams)


def test_an_epoch_of_one_round_of_an_endless_stream_is_one_that_goes_through_the_set_once() -> None:
    assert taken(range(4), 7, 7, endless=True) == taken(range(4), 7, 7, endless=False)


def test_epochs_seeds_and_streams_have_orders_of_their_own() -> None:
    orders = {
        tuple(number for *_, number in order.keys(seed, 20, order.parts(epoch, 20, 20, endless=True)))
        for seed, epoch in (((5, 0), 0), ((5, 0), 1), ((6, 0), 0), ((5, 1), 0))
    }
    assert len(orders) == 4
