"""Ctrl-C, heard even where Python or a library loses it.

An error raised in a destructor is printed and forgotten, TensorFlow's objects have destructors written in Python, and
Keras and TensorFlow turn any error of some calls into another or into a warning: of the interrupts that fell into a
model's tuning, one in forty was lost so. It is remembered, and raised again at the next step.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_heard = threading.Event()


@contextmanager
def remember() -> Iterator[None]:
    """Ctrl-C within the block ends it with a KeyboardInterrupt, at the latest at the next `check`.

    Blocks may lie in each other. In another thread than the main one, or where Ctrl-C is ignored or handled by someone
    else, nothing is changed.
    """
    main = threading.current_thread() is threading.main_thread()
    listens = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    shown = sys.unraisablehook

    def show_others(unraisable: "sys.UnraisableHookArgs") -> None:
        """Say nothing of interrupts in destructors: they are not lost."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            shown(unraisable)

    def hear(number: int, frame: FrameType | None) -> None:
        _heard.set()
        raise KeyboardInterrupt

    if listens:
        sys.unraisablehook = show_others
        signal.signal(signal.SIGINT, hear)
    try:
        yield
    except Exception as error:
        if _heard.is_set():  # What a library made of it.
            raise KeyboardInterrupt from error
        raise
    finally:
        if listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook = shown
            _heard.clear()


def check() -> None:
    """Raise what was lost.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and the work goes on all the same.
    """
    if _heard.is_set():
        raise KeyboardInterrupt
