"""What tests compared, for docs/accuracy.md: `make accuracy` runs them and reads the ledger.

Without the variable TCPTRACE_LEDGER, which names its file, nothing is written.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "TCPTRACE_LEDGER"


@dataclass(frozen=True)
class Entry:
    """One comparison of so many turns by a test (pytest's id); times are ns.

    `difference` is what the bound is held against. Without a truth, `recorded` is a share.
    """

    test: str
    what: str
    turns: int
    truth: float | None
    recorded: float
    difference: float
    bound: str


def note(
    what: str, turns: int, truth_ns: float, recorded_ns: float, bound: str, difference_ns: float | None = None
) -> None:
    """Enter a comparison; call it before insisting on the bound, so that a broken one is shown as well.

    `difference_ns` is recorded less truth unless it is said, as where turns are compared one by one.
    """
    difference = recorded_ns - truth_ns if difference_ns is None else difference_ns
    _enter(Entry(_test(), what, turns, float(truth_ns), float(recorded_ns), float(difference), bound))


def note_share(what: str, turns: int, share: float, bound: str) -> None:
    """Enter a share that is to be as small as the bound says."""
    _enter(Entry(_test(), what, turns, None, float(share), float(share), bound))


def _test() -> str:
    """Its id: the variable adds the phase, such as "(call)"."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]


def _enter(entry: Entry) -> None:
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a") as ledger:
            ledger.write(json.dumps(asdict(entry)) + "\n")


def read(path: Path) -> list[Entry]:
    """All entries, in the order in which they were made."""
    return [Entry(**json.loads(line)) for line in path.read_text().splitlines()]
