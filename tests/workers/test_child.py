"""A supervised child process: how it answers, dies, hangs and ends, and what it leaves behind."""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from autoprune.workers import ChildProcess, DeadChildError
from autoprune.workers import process as process_module
from autoprune.workers.process import make_scratch
from helpers.processes import gone, started, wait_until


@pytest.fixture
def make(scratch):
    """Makes children that are ended at the end of the test."""
    children = []

    def make_child(module="helpers.echoing_child", environment=None, **options):
        variables = {**os.environ, **(environment or {})}
        child = ChildProcess(module, name="echoing process", environment=lambda folder: variables, **options)
        children.append(child)
        return child

    yield make_child
    for child in children:
        child.end()
        assert child.id is None


def ask(child, do="echo", value=None, **options):
    return child.ask({"do": do, "value": value}, task="echo", **options)


# ------------------------------------------------------------------ answers


def test_it_starts_with_the_first_request_and_answers_many_threads(make):
    child = make()
    assert child.id is None
    assert not child.settled
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: ask(child, value=number), range(40)))
    assert [answer["value"] for answer in answers] == list(range(40))
    assert {answer["process"] for answer in answers} == {child.id}
    assert child.settled


def test_every_fresh_process_answers_the_opening_before_anything_else(make, tmp_path):
    child = make(opening={"do": "note the end", "value": str(tmp_path / "ended")})
    for _ in range(2):
        assert ask(child, value=7)["value"] == 7
        child.stop(grace=30)
        (tmp_path / "ended").unlink()


def test_a_child_whose_opening_is_refused_says_why_and_is_ended(make):
    child = make(opening={"do": "refuse", "value": "there is nothing to load"})
    with pytest.raises(DeadChildError, match="could not get ready: there is nothing to load") as raised:
        ask(child)
    assert raised.value.task == "get ready"
    assert not raised.value.retry
    assert child.id is None


def test_events_come_in_order_before_the_answer(make):
    child, events = make(), []
    assert ask(child, "count", 5, on_event=events.append)["value"] == 5
    assert [event["number"] for event in events] == list(range(5))


def test_an_error_of_who_hears_an_event_ends_the_child(make):
    child = make()

    def fail(event):
        raise ValueError(f"at {event['number']}")

    with pytest.raises(ValueError, match="at 0"):
        ask(child, "count", 5, on_event=fail)
    assert child.id is None
    assert ask(child, value="fresh")["value"] == "fresh"


def test_what_is_printed_goes_to_the_log_and_not_among_the_answers(make, tmp_path, monkeypatch):
    """By Python code, by native code, at import, and even while Python starts."""
    (tmp_path / "sitecustomize.py").write_text("print('printed at the start', end='')\n")
    monkeypatch.syspath_prepend(tmp_path)
    child = make(folder=tmp_path / "kept")
    for number in range(3):
        assert ask(child, "print", number)["value"] == number
    child.end()
    log = (tmp_path / "kept/stderr.txt").read_text()
    for words in ("printed at the start", "printed at import", "printed without an end"):
        assert words in log


@pytest.mark.parametrize("limit", [{"resident_limit": 1}, {"recycle_after": 1}])
def test_a_child_too_large_or_too_old_is_replaced(make, limit):
    child = make(**limit)
    first = ask(child)["process"]
    assert gone(first)
    assert ask(child)["process"] != first


def test_it_imports_what_this_process_can_and_nothing_else(make, tmp_path, monkeypatch):
    """It looks in the working folder only where this process does, and not first."""
    here, mine = tmp_path / "here", tmp_path / "mine"
    for folder in (here, mine):
        folder.mkdir()
    (mine / "tell_path.py").write_text("import sys\ndef make_handler():\n    return lambda request, tell: sys.path\n")
    (here / "json.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(here)
    monkeypatch.setattr("sys.path", [str(mine), *(path for path in sys.path if path not in ("", str(here)))])
    for given in (sys.path, [*sys.path, ""]):
        monkeypatch.setattr("sys.path", given)
        told = ask(make("tell_path"))
        assert told[0] == str(mine)
        assert (str(here) in told) == ("" in given)


# ------------------------------------------------------------------ deaths


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ("die", r"process was killed before it could echo, perhaps .* words: \(exit code -9\) .*it went dark"),
        ("die in the midst of the answer", r"was killed before it could echo, .*exit code -9\) .*it went dark"),
        ("raise", r"The echoing process died before it could echo\. Its last words: \(exit code 1\) .*'the cause'"),
        ("send nonsense", r"sent what is no answer when it was to echo: 'nonsense\\n' Its last words"),
    ],
)
def test_a_child_that_dies_leaves_its_last_words_and_is_replaced(make, do, message):
    child = make()
    first = ask(child)["process"]
    with pytest.raises(DeadChildError, match=message) as caught:
        ask(child, do)
    assert caught.value.retry
    assert gone(first)
    assert ask(child, value=3)["value"] == 3


def test_a_child_killed_between_requests_is_replaced(make):
    child = make()
    first = ask(child)["process"]
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: gone(first))
    assert ask(child)["process"] not in (None, first)


def test_a_child_that_hangs_is_killed(make):
    child, events = make(), []
    with pytest.raises(DeadChildError, match=r"took longer than 0\.5 s to echo\. ") as caught:
        ask(child, "hang", timeout=0.5, on_event=events.append)
    assert not caught.value.retry
    assert ask(child, value=3)["value"] == 3


def test_a_child_that_does_not_read_is_killed(make):
    """A request larger than a pipe holds cannot even be sent to it."""
    child = make()
    stopped = ask(child)["process"]
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(DeadChildError, match="took longer than 1 s"):
        ask(child, value="x" * 10**6, timeout=1)
    assert gone(stopped)


def test_a_child_that_does_not_start_says_why(make):
    with pytest.raises(DeadChildError, match=r"died before it could start\. .*No module named 'no_such_module'"):
        ask(make("no_such_module"))
    with pytest.raises(DeadChildError, match=r"took longer than 0\.5 s to start"):
        ask(make(environment={"SLEEP_AT_IMPORT": "1"}, start_timeout=0.5))
    with pytest.raises(DeadChildError, match=r"died before it could start\. .*PYTHONINTMAXSTRDIGITS"):
        ask(make(environment={"PYTHONINTMAXSTRDIGITS": "none"}))


def test_an_interpreter_that_is_not_there_is_named(make, monkeypatch):
    monkeypatch.setattr(process_module.sys, "executable", "/nowhere/python")
    with pytest.raises(DeadChildError, match="could not be started: .*/nowhere/python"):
        ask(make())


def test_a_kept_folder_has_the_log_and_is_named(make, tmp_path):
    with pytest.raises(DeadChildError, match=r"All it wrote is in .*kept/stderr\.txt"):
        ask(make(folder=tmp_path / "kept"), "raise")
    assert "KeyError: 'the cause'" in (tmp_path / "kept/stderr.txt").read_text()


# ------------------------------------------------------------------ ends


def test_it_can_be_ended_by_any_thread_for_good(make, scratch):
    child, hanging = make(), threading.Event()

    def end():
        assert hanging.wait(60)
        child.end()

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(DeadChildError, match=r"The echoing process has been ended\.") as caught:
        ask(child, "hang", on_event=lambda event: hanging.set())
    assert not caught.value.retry
    thread.join()
    assert list(scratch.iterdir()) == []
    with pytest.raises(DeadChildError, match="has been ended"):
        ask(child)


def test_stopped_while_it_works_it_is_started_again(make):
    child, hanging = make(), threading.Event()
    threading.Thread(target=lambda: hanging.wait(60) and child.stop()).start()
    with pytest.raises(DeadChildError, match="has been ended"):
        ask(child, "hang", on_event=lambda event: hanging.set())
    assert ask(child, value=3)["value"] == 3


def test_threads_that_wait_for_their_turn_hear_of_the_end(make):
    child, hanging = make(), threading.Event()
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(ask, child, "hang", on_event=lambda event: hanging.set()) for _ in range(4)]
        assert hanging.wait(60)
        child.end()
        assert all(isinstance(answer.exception(60), DeadChildError) for answer in asked)


@pytest.mark.usefixtures("hears_ctrl_c")
def test_an_interrupt_ends_the_child_and_the_next_answer_is_its_own(make):
    child = make()
    first = ask(child)["process"]
    with pytest.raises(KeyboardInterrupt):
        ask(child, "hang", on_event=lambda event: os.kill(os.getpid(), signal.SIGINT))
    assert gone(first)
    assert ask(child, value="mine")["value"] == "mine"


def test_with_grace_it_ends_in_order(make, tmp_path):
    child = make()
    number = ask(child, "note the end", str(tmp_path / "ended"))["process"]
    child.stop(grace=60)
    assert gone(number)
    assert (tmp_path / "ended").exists()


def test_grace_has_an_end(make):
    child = make()
    number = ask(child, "never end")["process"]
    child.stop(grace=0.5)
    assert gone(number)


PARENT = """
import os, sys, time
from autoprune.workers import ChildProcess
child = ChildProcess("helpers.echoing_child", name="echoing process", environment=lambda folder: dict(os.environ))
print(child.ask({"do": "echo"}, task="echo")["process"], flush=True)
"""
IDLE = "sys.stdin.read()"
BUSY = """
child.ask({"do": "hang"}, task="hang", on_event=lambda event: print("hanging", flush=True))
"""
ASKING = """
import threading
hanging = threading.Event()
options = {"task": "hang", "on_event": lambda event: hanging.set()}
threading.Thread(target=child.ask, args=({"do": "hang"},), kwargs=options, daemon=True).start()
hanging.wait()
"""
FORKED = """
if os.fork() == 0:
    time.sleep(60)
print("forked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("then", [IDLE, BUSY, FORKED], ids=["idle", "busy", "with a fork that keeps its pipes"])
def test_no_child_survives_a_parent_that_is_killed(scratch, then):
    parent = started(PARENT + then, TMPDIR=str(scratch))
    child = int(parent.stdout.readline())
    if then != IDLE:
        parent.stdout.readline()
    forks = forks_of(parent.pid) - {child}
    parent.kill()
    assert wait_until(lambda: gone(child))
    assert wait_until(lambda: not list(scratch.iterdir()))
    for fork in forks:
        os.kill(fork, signal.SIGKILL)
    parent.communicate()


def forks_of(process_id):
    with open(f"/proc/{process_id}/task/{process_id}/children") as file:
        return {int(number) for number in file.read().split()}


@pytest.mark.parametrize("then", ["", ASKING], ids=["idle", "busy"])
def test_no_child_survives_an_interpreter_that_ends(scratch, then):
    parent = started(PARENT + then, TMPDIR=str(scratch))
    out, errors = parent.communicate(timeout=120)
    assert parent.returncode == 0, errors
    assert gone(int(out))


def test_what_two_kills_leave_the_next_child_removes(scratch):
    parent = started(PARENT + IDLE, TMPDIR=str(scratch))
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGSTOP)
    os.kill(child, signal.SIGKILL)
    parent.kill()
    parent.communicate()
    (left,) = scratch.iterdir()
    others = [scratch / f"autoprune-worker-{os.getpid()}-mine", scratch / "autoprune-worker-of_another_kind"]
    for folder in others:
        folder.mkdir()
    assert f"-{parent.pid}-" in left.name
    own = make_scratch()
    assert sorted(scratch.iterdir()) == sorted([*others, own])
    for folder in [*others, own]:
        folder.rmdir()
