"""A report as a test sees it: elements, tables, scripts and text, read by the standard library's parser."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import exchanges, sums
from tcptrace.output.report import Recording, render
from tcptrace.trace.reader import read

VOID = {"meta", "input", "br", "link", "img", "base"}


@dataclass
class Cell:
    text: str = ""
    value: float | None = None  # data-v: the exact number behind the text
    title: str | None = None


@dataclass
class Table:
    caption: str = ""
    head: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)

    def column(self, name: str) -> list[Cell]:
        return [row[self.head.index(name)] for row in self.rows]

    def by_first(self) -> dict[str, list[Cell]]:
        return {row[0].text: row for row in self.rows}


class Page(HTMLParser):
    """Collects while feeding. `tables` are in the order of the page."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tables: list[Table] = []
        self.text = ""
        self._open: list[str] = []
        self._cell: Cell | None = None
        self.feed(source)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def table(self, caption: str) -> Table:
        return next(table for table in self.tables if table.caption.startswith(caption))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        assert len(named) == len(attrs), f"an attribute twice: {tag} {attrs}"
        self.elements.append((tag, named))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append((named, ""))
        elif tag == "table":
            self.tables.append(Table())
        elif tag == "tr" and "tbody" in self._open:
            self.tables[-1].rows.append([])
        elif tag in ("td", "th") and "tbody" in self._open:
            value = named.get("data-v")
            self._cell = Cell(value=None if value is None else float(value), title=named.get("title"))
            self.tables[-1].rows[-1].append(self._cell)
        elif tag == "th":
            self.tables[-1].head.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()
        if tag in ("td", "th"):
            if self._cell is not None:
                self._cell.text = self._cell.text.strip()
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
            return
        if self._open and self._open[-1] == "style":
            return
        self.text += data
        if self._cell is not None:
            self._cell.text += data
        elif "caption" in self._open:
            self.tables[-1].caption += data
        elif self._open[-1:] == ["th"] or self._open[-2:] == ["th", "button"]:
            self.tables[-1].head[-1] += data


def recording(path: Path) -> Recording:
    trace = read(path)
    ends = connections(trace)
    return Recording(trace, ends, exchanges(trace, ends), sums(trace, ends))


def page_of(*paths: Path) -> Page:
    return Page(render([recording(path) for path in paths]))


def rows_of(record: Recording) -> list[dict[str, Any]]:
    """The table `connections` as dictionaries: what the page must agree with."""
    found: list[dict[str, Any]] = record.connections.to_pylist()
    return found
