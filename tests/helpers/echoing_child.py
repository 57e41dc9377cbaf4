"""What runs in the children of `tests/workers`: answers, and does whatever a child must not do."""

import atexit
import os
import signal
import stat
import sys
import time
from pathlib import Path

print("printed at import")
if "SLEEP_AT_IMPORT" in os.environ:
    time.sleep(300)


def channel():
    """The file descriptor of the messages to the parent."""
    return next(number for number in range(3, 50) if is_pipe(number))


def is_pipe(number):
    try:
        return stat.S_ISFIFO(os.fstat(number).st_mode)
    except OSError:
        return False


def die():
    sys.stderr.write("it went dark\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def cut_off(value, tell):
    os.write(channel(), b'{"id": 1, "answer": {"va')
    die()


def fail(value, tell):
    raise KeyError("the cause")


def hang(value, tell):
    tell({"hanging": True})
    time.sleep(300)


def talk(value, tell):
    print("printed text")
    os.write(1, b"printed without an end")


def send_nonsense(value, tell):
    os.write(channel(), b"nonsense\n")
    time.sleep(300)


def count(value, tell):
    for number in range(value):
        tell({"number": number})


DEEDS = {
    "echo": lambda value, tell: None,
    "die": lambda value, tell: die(),
    "die in the midst of the answer": cut_off,
    "raise": fail,
    "hang": hang,
    "print": talk,
    "send nonsense": send_nonsense,
    "count": count,
    "note the end": lambda value, tell: atexit.register(Path(value).touch),
    "refuse": lambda value, tell: None,
    "sleep": lambda value, tell: time.sleep(value),
    "never end": lambda value, tell: atexit.register(time.sleep, 300),
}


def make_handler():
    def handle(request, tell):
        value = request.get("value")
        DEEDS[request["do"]](value, tell)
        if request["do"] == "refuse":
            return {"error": value}
        return {"value": value, "process": os.getpid()}

    return handle
