"""Where a search lets stop signals interrupt it."""

import signal

import pytest

from dlopt.runner.signals import STOP_SIGNALS, handle_signals
from dlopt.sweep.search import StopHandler


@pytest.fixture
def handler():
    handler = StopHandler()
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with handle_signals(handler):
        yield handler
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_interrupts_an_interruptible_block(handler, number):
    with pytest.raises(KeyboardInterrupt), handler.interruptible():
        signal.raise_signal(number)
    assert not handler.is_forced


def test_a_signal_waits_for_the_next_interruptible_block(handler):
    with handler.interruptible():
        pass
    signal.raise_signal(signal.SIGINT)
    entered = False
    with pytest.raises(KeyboardInterrupt), handler.interruptible():
        entered = True
    assert not entered


def test_a_second_signal_interrupts_everywhere(handler):
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert handler.is_forced


@pytest.mark.parametrize("waits", [False, True])
def test_a_signal_does_not_disturb_what_ends_because_of_another(handler, waits):
    if waits:
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), handler.interruptible():
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert handler.is_forced
    handler.rearm()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_signal_that_was_handled_inside_the_block_lets_the_next_one_raise(handler):
    with handler.interruptible(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
