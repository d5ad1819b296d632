"""When signals to stop are heard."""

import signal

import pytest

from dlopt.runner.signals import STOP_SIGNALS, handle_signals
from dlopt.sweep.signals import StopHandler


@pytest.fixture
def stopping():
    made = StopHandler()
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with handle_signals(made):
        yield made
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_one_is_heard_where_it_may_be(stopping, number):
    with pytest.raises(KeyboardInterrupt), stopping.interruptible():
        signal.raise_signal(number)
    assert not stopping.is_forced


def test_one_waits_until_it_may_be_heard(stopping):
    with stopping.interruptible():
        pass
    signal.raise_signal(signal.SIGINT)
    waits = False
    with pytest.raises(KeyboardInterrupt), stopping.interruptible():
        waits = True
    assert not waits


def test_a_second_is_heard_everywhere(stopping):
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert stopping.is_forced


def test_none_disturbs_what_ends_because_of_another(stopping):
    with pytest.raises(KeyboardInterrupt), stopping.interruptible():
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert stopping.is_forced
    stopping.rearm()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_none_disturbs_what_ends_because_of_one_that_waited(stopping):
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stopping.interruptible():
        pass
    signal.raise_signal(signal.SIGINT)
    assert stopping.is_forced


def test_one_that_was_dealt_with_where_it_was_heard_does_not_keep_others_from_it(stopping):
    with stopping.interruptible(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
