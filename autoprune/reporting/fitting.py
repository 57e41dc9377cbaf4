"""Tables that fit the terminal: columns are left out, the least important first, rather than a row broken in two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_SHORTEST = 20  # Characters to which a name is shortened before a column is left out.
_LONGEST_WORD = 40  # Prose keeps its words whole up to this.
_FRAME = 3  # Characters that a column takes besides its text; the table takes one more.


Kind = Literal["figure", "word", "name", "prose"]


@dataclass(frozen=True)
class Column:
    """A column of a `FittingTable`.

    Attributes:
        header: above it.
        rank: 0 for a column that always stays; of the others the one of the highest rank is left out first, of equal
            ones the last.
        kind: `figure` is shown whole, right-aligned; `word` likewise, left-aligned; a `name` is shortened in the middle
            where it has to be; `prose` takes several lines.
    """

    header: str
    rank: int = 0
    kind: Kind = "figure"


class FittingTable:
    """A table of text that takes no more width than there is when it is printed.

    Args:
        columns: from left to right.
        title: above the table.
        caption: below it; what was left out is added there.
        lines: whether there is a line between any two rows.
        headed: whether the headers are shown.

    Attributes:
        columns, title, caption: as given.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        title: str | None = None,
        caption: str | None = None,
        lines: bool = False,
        headed: bool = True,
    ) -> None:
        self.columns = tuple(columns)
        self.title = title
        self.caption = caption
        self._lines = lines
        self._headed = headed
        self._rows: list[tuple[tuple[str, ...], bool]] = []

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells of all rows."""
        return [cells for cells, _ in self._rows]

    def add_row(self, *cells: str, end_section: bool = False) -> None:
        """Add a row of one cell for each column, with a line below it where a section ends.

        Raises:
            ValueError: there are more or fewer cells than columns.
        """
        if len(cells) != len(self.columns):
            raise ValueError(f"Expected {len(self.columns)} cells. Received: {len(cells)}")
        self._rows.append((cells, end_section))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table as it fits."""
        widths = self._fit(options.max_width)
        left_out = dict.fromkeys(column.header for n, column in enumerate(self.columns) if n not in widths)
        said = [self.caption] if self.caption else []
        said += [f"Left out at this width: {', '.join(left_out)}."] if left_out else []
        table = Table(
            title=Text(self.title, style="table.title") if self.title else None,
            caption=Text(" ".join(said), style="table.caption") if said else None,
            title_justify="left",
            caption_justify="left",
            show_lines=self._lines,
            show_header=self._headed,
        )
        for number, width in widths.items():
            column = self.columns[number]
            table.add_column(
                Text(column.header),
                justify="right" if column.kind == "figure" else "left",
                width=width,
                no_wrap=column.kind != "prose",
                overflow="fold" if column.kind == "prose" else "ellipsis",
            )
            # A header may take two lines, also where no cell may.
            table.columns[-1].header = Text(column.header, no_wrap=False)
        for cells, ends in self._rows:
            fitted = {n: shorten_name(cells[n], width) for n, width in widths.items() if self.columns[n].kind == "name"}
            table.add_row(*(Text(fitted.get(n, cells[n])) for n in widths), end_section=ends)
        yield table

    def _fit(self, width: int) -> dict[int, int]:
        """The columns that have room, with their widths.

        What room is left is given away: to names first, then to headers, then to prose.
        """
        natural, least = [], []
        for number, column in enumerate(self.columns):
            texts = [line for row, _ in self._rows for line in row[number].splitlines()]
            header = column.header.split() if self._headed else []
            texts += [column.header] if self._headed else []
            natural.append(max(map(cell_len, texts), default=0))
            # Below this width another column is left out instead.
            if column.kind == "prose":
                words = [cell_len(word) for text in texts for word in text.split()]
                least.append(min(max(words, default=0), _LONGEST_WORD))
            elif column.kind == "name":
                least.append(min(natural[-1], max([_SHORTEST, *map(cell_len, header)])))
            else:
                least.append(max([0, *map(cell_len, header), *(cell_len(row[number]) for row, _ in self._rows)]))
        widths = dict(enumerate(least))
        while sum(taken + _FRAME for taken in widths.values()) + 1 > width:
            able = [number for number in widths if self.columns[number].rank]
            if not able:
                break
            del widths[max(able, key=lambda number: (self.columns[number].rank, number))]
        shown = list(widths)
        room = width - 1 - sum(taken + _FRAME for taken in widths.values())
        order = {"name": 0, "word": 1, "figure": 1, "prose": 2}
        ranked = sorted(shown, key=lambda number: order[self.columns[number].kind])
        for number in ranked:
            more = min(max(room, 0), natural[number] - least[number])
            widths[number] += more
            room -= more
        # Nothing more can be left out: names give way, then whatever stands last.
        names_first = [n for n in ranked if self.columns[n].kind == "name"] + list(reversed(shown))
        for number in names_first:
            less = min(max(-room, 0), widths[number] - min(widths[number], 8))
            widths[number] -= less
            room += less
        return widths


def shorten_name(name: str, width: int) -> str:
    """A name with its middle left out where it is longer than the width: names differ at their ends.

    >>> shorten_name("efficientnet_b0_pruned", 12)
    'effici…runed'
    """
    if cell_len(name) <= width:
        return name
    kept = max(width - 1, 1)
    return f"{name[: kept - kept // 2]}…{name[len(name) - kept // 2 :]}"
