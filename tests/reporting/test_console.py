"""What a search says on its way, where there is no terminal."""

import numpy as np
import pytest

from autoprune.reporting.console import CONSOLE, stage


@pytest.mark.skipif(CONSOLE.is_terminal, reason="a terminal shows a bar instead")
@pytest.mark.parametrize(("total", "steps", "lines"), [(60, 60, 10), (5, 5, 5), (1, 750, 10), (3, 69, 10)])
def test_every_tenth_of_a_stage_is_a_line(messages, total, steps, lines):
    with stage("search", total) as shown:
        for done in np.arange(1, steps + 1) * total / steps:
            shown.advance(done, "a note")
    said = [line for line in messages().splitlines() if "search" in line]
    assert len(said) == lines
    assert f"{total}/{total}  a note" in said[-1]
