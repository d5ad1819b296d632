"""When signals to stop are heard."""

import signal

import pytest

from dlopt.sweep.signals import Stopping
from dlopt.training.control import STOPPING, handled


@pytest.fixture
def stopping():
    made = Stopping()
    before = [signal.getsignal(number) for number in STOPPING]
    with handled(made):
        yield made
    assert [signal.getsignal(number) for number in STOPPING] == before


@pytest.mark.parametrize("number", STOPPING)
def test_one_is_heard_where_it_may_be(stopping, number):
    with pytest.raises(KeyboardInterrupt), stopping.heard():
        signal.raise_signal(number)
    assert not stopping.twice


def test_one_waits_until_it_may_be_heard(stopping):
    with stopping.heard():
        pass
    signal.raise_signal(signal.SIGINT)
    waits = False
    with pytest.raises(KeyboardInterrupt), stopping.heard():
        waits = True
    assert not waits


def test_a_second_is_heard_everywhere(stopping):
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert stopping.twice


def test_none_disturbs_what_ends_because_of_another(stopping):
    with pytest.raises(KeyboardInterrupt), stopping.heard():
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert stopping.twice
    stopping.listen()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_none_disturbs_what_ends_because_of_one_that_waited(stopping):
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stopping.heard():
        pass
    signal.raise_signal(signal.SIGINT)
    assert stopping.twice


def test_one_that_was_dealt_with_where_it_was_heard_does_not_keep_others_from_it(stopping):
    with stopping.heard(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
