"""What output for a terminal is made of: titles, lines, small tables. Markup is never interpreted."""

import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from tcptrace.output.escape import visible
from tcptrace.output.tables import Column, text_lines
from tcptrace.units import format_duration


def print_title(out: Console, text: str) -> None:
    out.print(Text(text, "bold"))


def print_line(out: Console, text: str, style: str = "") -> None:
    """text: visible() already."""
    out.print(Text(text, style))


def print_rows(
    out: Console,
    title: str,
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Sequence[int] = (),
) -> None:
    """A small table under a title, if there is one; nothing when there are no rows."""
    cells = [[visible(cell) for cell in row] for row in rows]
    if not cells:
        return
    if title:
        print_title(out, title)
    columns = [
        Column(name, [row[number] for row in cells], number in right) for number, name in enumerate(titles)
    ]
    for number, line in enumerate(text_lines(columns)):
        print_line(out, f"  {line}", "dim" if number == 0 else "")


def print_wrapped(out: Console, text: str, first: str, style: str = "") -> None:
    """Prose, visible() already: folded at words in a terminal; one line in a file, where people search.

    first: what the line begins with; the next ones are indented as far.
    """
    lines = [text]
    if out.is_terminal:
        lines = textwrap.wrap(text, max(40, out.width - len(first)), break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        print_line(out, (first if number == 0 else " " * len(first)) + line, style)


def marked(ns: int | None, guessed: bool) -> str:
    """A duration, with ~ before it when it is estimated."""
    return f"{'~' if guessed and ns else ''}{format_duration(ns)}"
