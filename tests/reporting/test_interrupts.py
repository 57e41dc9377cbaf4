"""Ctrl-C ends a run wherever it falls."""

import signal
import sys
import threading

import pytest

from autoprune.cli import INTERRUPTED, exit_on_error
from autoprune.reporting import interrupts
from autoprune.reporting.console import stage

pytestmark = pytest.mark.usefixtures("hears_ctrl_c")


class InterruptedWhenDeleted:
    """Ctrl-C comes just while an object is deleted; Python forgets what a destructor raises."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def turned_into_another_error():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise SystemError("bad argument to internal function") from None


def test_in_a_destructor_it_is_heard_at_the_next_step_of_a_stage(capsys):
    reached = []

    def work():
        with interrupts.remember(), stage("evaluations", 3) as shown:
            shown.advance(1, "")
            InterruptedWhenDeleted()
            reached.append("after the destructor")
            shown.advance(2, "")
            reached.append("after the step")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["after the destructor"]
    assert "KeyboardInterrupt" not in capsys.readouterr().err


def test_turned_into_another_error_it_is_an_interrupt_again():
    with pytest.raises(KeyboardInterrupt), interrupts.remember():
        turned_into_another_error()


def test_it_comes_at_once_where_nothing_loses_it():
    reached = []

    def work():
        with interrupts.remember():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not reached


@pytest.mark.parametrize("lose", [turned_into_another_error, InterruptedWhenDeleted])
def test_a_command_ends_with_its_code_wherever_it_falls(lose):
    """Also where the command does not say what it keeps."""

    def body():
        with interrupts.remember(), stage("models", 2) as shown:
            lose()
            shown.advance(1, "")

    with pytest.raises(SystemExit) as ended:
        exit_on_error(body)()
    assert ended.value.code == INTERRUPTED


def test_an_error_without_it_stays_what_it_is():
    with pytest.raises(ValueError, match="too wide"), interrupts.remember():
        raise ValueError("too wide")


def test_afterwards_all_is_as_before():
    before = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), interrupts.remember():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sys.unraisablehook is before
    interrupts.check()


def test_where_it_is_ignored_it_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The fixture puts back what was there.
    with interrupts.remember():
        signal.raise_signal(signal.SIGINT)
        interrupts.check()


def test_another_thread_changes_nothing():
    handlers = []

    def work():
        with interrupts.remember():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
