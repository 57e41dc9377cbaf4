"""A page: a headline and sections of text, tables and charts, as one HTML file that asks nobody for anything."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from autoprune.records.plain import write_text
from autoprune.reporting.fitting import FittingTable

_PROSE = 28  # Characters from which a cell of text wraps.
_SENTENCE = 48  # Characters from which a cell that begins with a figure is text all the same.
_FIGURES = "0123456789+-\u2212\u00b1<>"  # What figures begin with.


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph, or a list of sentences in a box.

    Attributes:
        words: the sentences.
        look: `note` for small print, `caution` for what a reader should know first, `missing` for what is not there,
            `command` for something to type, or nothing.
    """

    words: Sequence[str]
    look: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        columns: headers.
        rows: cells, as many in each row as there are columns.
        caption: what the figures are.
        title: above it; empty where the heading of the section says it.
        folded: words to click that open it; empty shows it at once.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    title: str = ""
    folded: str = ""

    def __post_init__(self) -> None:
        # What is saved may be anything.
        count = len(self.columns)
        rows = [tuple([*map(str, row), *["-"] * (count - len(row))][:count]) for row in self.rows]
        object.__setattr__(self, "rows", rows)

    @classmethod
    def of(cls, table: FittingTable, *, title: str | None = None, folded: str = "") -> "Table":
        """A table of the terminal's, with all of its columns."""
        columns = [column.header for column in table.columns]
        named = (table.title or "") if title is None else title
        return cls(columns=columns, rows=table.rows, caption=table.caption or "", title=named, folded=folded)

    @property
    def left(self) -> list[bool]:
        """For each column whether it stands to the left: names and text, rather than figures."""
        return [not any(self.columns) or number == 0 or self._is_text(number) for number in range(len(self.columns))]

    @property
    def prose(self) -> list[bool]:
        """For each column whether its cells are text that wraps."""
        return [
            not any(self.columns) or (self._is_text(number) and any(len(row[number]) > _PROSE for row in self.rows))
            for number in range(len(self.columns))
        ]

    def _is_text(self, number: int) -> bool:
        """Whether a column has mostly cells that are no figures."""
        cells = [row[number] for row in self.rows]
        return 2 * sum(cell[:1] not in _FIGURES or len(cell) > _SENTENCE for cell in cells) > len(cells)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of Bokeh's.

    Attributes:
        key: its id on the page.
        figure: the Bokeh figure.
        summary: what it shows, for those who do not see it.
        title: above it.
        caption: how it is read.
        legend: name of each series that its colours and markers stand for, by the number of the series.
        shape: what a series is drawn with: `marker`, `line` or `both`.
        explorable: whether its points are those of the page's evaluations, which can be pointed at and pinned.
    """

    key: str
    figure: Any
    summary: str
    title: str = ""
    caption: str = ""
    legend: Mapping[int, str] = field(default_factory=dict)
    shape: str = "marker"
    explorable: bool = False


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """Something that has a template of its own.

    Attributes:
        template: name of the macro in `parts.html.j2`.
        values: what it is given.
    """

    template: str
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parts side by side where there is room."""

    parts: Sequence["Part"]


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """Charts of the page's evaluations, with what is pointed at and pinned below them.

    Attributes:
        series: name of each series by its number.
        counts: for each how many evaluations it has, in words.
        charts: explorable ones.
    """

    series: Mapping[int, str]
    counts: Sequence[str]
    charts: Sequence[Chart]


Part = Text | Table | Chart | Fragment | Group | Explorer


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands under it.

    Attributes:
        key: its id on the page.
        title: the heading.
        parts: in their order.
        listed: whether the page's list of sections has it.
    """

    key: str
    title: str
    parts: Sequence[Part]
    listed: bool = True


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One of the large figures under the headline.

    Attributes:
        value: such as `2.6 \u00d7`.
        name: what it is.
        note: from what to what.
    """

    value: str
    name: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What is on a page.

    Attributes:
        title: what it is a page of, such as a model on a target.
        kind: such as `search`.
        headline: one sentence that says what came of it.
        lead: sentences under it.
        figures: the large ones.
        cautions: what a reader should know before trusting it.
        sections: the rest.
        data: what the page's script reads, by name: the evaluations of its explorable charts.
    """

    title: str
    kind: str
    headline: str
    sections: Sequence[Section]
    lead: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    cautions: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


def write_page(page: Page, path: Path) -> None:
    """Write the page as a file that appears whole or not at all."""
    write_text(path, render(page))


def render(page: Page) -> str:
    """The page as HTML. All that it is given is escaped; scripts and styles are its own, and it may fetch nothing."""
    # Imported here: it takes half a second.
    from bokeh.embed import json_item
    from bokeh.resources import Resources

    charts = [part for section in page.sections for part in _charts(section.parts)]
    items = {chart.key: json_item(chart.figure) for chart in charts}
    folder = files("autoprune.reporting.pages")
    sources = {name: folder.joinpath(name).read_text() for name in ("page.html.j2", "parts.html.j2")}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    library = Resources(mode="inline", components=["bokeh"]).js_raw[0] if charts else ""
    return environment.get_template("page.html.j2").render(
        page=page,
        kind_of=lambda part: type(part).__name__.lower(),
        style=Markup(folder.joinpath("page.css").read_text()),
        script=Markup(folder.joinpath("page.js").read_text()) if charts else "",
        library=Markup(library),
        items=_embed(items),
        data=_embed(page.data),
    )


def _charts(parts: Sequence[Part]) -> list[Chart]:
    """All charts among parts, those in groups too."""
    found: list[Chart] = []
    for part in parts:
        if isinstance(part, Group):
            found += _charts(part.parts)
        elif isinstance(part, Explorer):
            found += part.charts
        elif isinstance(part, Chart):
            found.append(part)
    return found


def _embed(data: Any) -> Markup:
    """Data as JSON that cannot end the element it stands in."""
    text = json.dumps(_finite(data), separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _finite(data: Any) -> Any:
    """Plain data with null for what is no number: JSON has nothing for it."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data
