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
from typing import Any

_heard = threading.Event()


@contextmanager
def remember() -> Iterator[None]:
    """Ctrl-C within the block ends it with a KeyboardInterrupt, at the latest at the next `check`.

    Blocks may lie in each other. In another thread than the main one, or where Ctrl-C is ignored or handled by someone
    else, nothing is changed.
    """
    with _listen():
        try:
            yield
        except Exception as error:
            if _heard.is_set():  # What a library made of it.
                raise KeyboardInterrupt from error
            raise


@contextmanager
def _listen() -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    shown, sys.unraisablehook = sys.unraisablehook, _all_but_interrupts(sys.unraisablehook)
    signal.signal(signal.SIGINT, _hear)
    try:
        yield
    finally:
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


def _hear(number: int, frame: FrameType | None) -> None:
    _heard.set()
    raise KeyboardInterrupt


def _all_but_interrupts(show: Any) -> Any:
    """A hook for errors in destructors that is silent about interrupts: they are not lost."""

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            show(unraisable)

    return hook
