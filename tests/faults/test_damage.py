"""Files are damaged, or written by a stranger: what is read is what was written, or is refused."""

import pytest

from helpers.stored import KINDS, alter, damage, read_many

TIMES = 400  # Of each kind; a fortieth for those that take forty times as long to be read.


@pytest.mark.parametrize("name", KINDS)
def test_what_is_damaged_is_noticed(name, tmp_path, count):
    seen = read_many(name, tmp_path, max(10, TIMES // KINDS[name].slow), damage)
    count(f"damage to a file: {name}", seen.total())
    assert seen["refused"] + seen["a part"] > 0, seen


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.is_json])
def test_what_a_stranger_writes_is_read_or_refused(name, tmp_path, count):
    seen = read_many(name, tmp_path, max(10, TIMES // KINDS[name].slow), alter)
    count(f"a file of another shape: {name}", seen.total())
    assert seen["refused"] > 0, seen
