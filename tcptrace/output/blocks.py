"""What output for a terminal is made of: titles, lines, small tables. Markup is never interpreted."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from tcptrace.output.escape import visible
from tcptrace.output.tables import Column, text_lines


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
