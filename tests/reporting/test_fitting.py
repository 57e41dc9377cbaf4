"""Tables on narrow terminals: columns go, the least important first; no row takes two lines."""

import io

import keras
import pytest
from rich.console import Console

from autoprune.graph import find_groups
from autoprune.models import zoo
from autoprune.reporting.fitting import Column, FittingTable, shorten_name
from autoprune.reporting.groups import group_table


def printed(table, width):
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=True, color_system=None).print(table)
    return stream.getvalue().splitlines()


def cells_of(line):
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_columns_go_by_rank_and_are_named():
    table = FittingTable(
        [Column("a", kind="name"), *(Column(name, rank) for name, rank in {"b": 1, "c": 3, "d": 2}.items())]
    )
    table.add_row("aname", *(letter * 8 for letter in "bcd"))
    for width, shown in ((60, "abcd"), (42, "abcd"), (41, "abd"), (31, "abd"), (30, "ab"), (19, "a")):
        lines = printed(table, width)
        (row,) = [line for line in lines if line.startswith("│")]
        assert "".join(cell[0] for cell in cells_of(row)) == shown
        left_out = [name for name in "bcd" if name not in shown]
        assert not left_out or " ".join(" ".join(lines).split()).endswith(", ".join(left_out) + ".")


def test_headers_take_two_lines_before_a_column_goes():
    table = FittingTable([Column("test accuracy"), Column("of dense", 1)])
    table.add_row("98.61%", "100.0%")
    assert len(printed(table, 40)) == 5
    assert len(printed(table, 22)) == 6
    assert "Left out" not in " ".join(printed(table, 22))


def test_what_looks_like_markup_is_shown_as_it_is():
    table = FittingTable([Column("name", kind="name")], title="[b]", caption="[/x]")
    table.add_row("[red]conv[/red]")
    assert "[red]conv[/red]" in " ".join(printed(table, 60))
    with pytest.raises(ValueError, match="Expected 1 cells. Received: 2"):
        table.add_row("a", "b")


def test_names_keep_their_ends():
    assert shorten_name("efficientnet_b0_pruned", 12) == "effici…runed"
    assert shorten_name("resnet50", 12) == "resnet50"


@pytest.mark.parametrize("width", [60, 80, 128])
def test_groups_stay_readable(width):
    """Names whole, words not torn apart; the axes go where they would have no room."""
    keras.utils.set_random_seed(0)
    groups = find_groups(zoo.build("small_resnet", (8, 8, 1), 10))
    lines = printed(group_table(groups), width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(cells_of(line)) for line in lines)
    for group in groups:
        assert group.name in text
        assert group.reason.split()[-1:] == [] or group.reason.split()[-1] in text
    assert ("made by" in text) == (width == 128)
