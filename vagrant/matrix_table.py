"""The support table of README.md: which provider gives each fact under each kernel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from matrix_kernels import MatrixError
from matrix_results import Result

BEGIN = "<!-- support table: written by `make matrix` -->"
END = "<!-- end of the support table -->"


def table(results: Sequence[Result]) -> str:
    """Markdown: a row for each fact in doctor's order, a column for each kernel.

    A cell names the provider, says when what it gives is estimated, and is a dash when there is none.
    """
    facts = list(dict.fromkeys(hook["fact"] for result in results for hook in result.hooks))
    header = ["fact", *(f"Linux {version(result.release)}" for result in results)]
    rows = [header, ["---"] * len(header)]
    for fact in facts:
        rows.append([fact, *(_cell(result, fact) for result in results)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def version(release: str) -> str:
    """The numbers at the beginning of a kernel's release: 6.12.117 of 6.12.117+deb13-cloud-amd64."""
    found = re.match(r"\d+(\.\d+)*", release)
    return found.group() if found else release


def _cell(result: Result, fact: str) -> str:
    hook = next((hook for hook in result.hooks if hook["fact"] == fact), None)
    if hook is None or hook["provider"] is None:
        return "–"
    return f"`{hook['provider']}`" + ("" if hook["exact"] else " (estimated)")


def rewritten(text: str, content: str) -> str:
    """A document with this content between its two markers.

    Raises:
        MatrixError: the markers are not there, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise MatrixError(f"the support table goes between the lines {BEGIN} and {END}, which are not there")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def write(path: Path, results: Sequence[Result]) -> bool:
    """Put the table into a document. Returns whether that changed it."""
    before = path.read_text()
    after = rewritten(before, table(results))
    if after != before:
        path.write_text(after)
    return after != before
