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
    """One comparison: so many turns, the truth's and the recorded value (ns), and what is allowed.

    `test` is pytest's id of the test that made it.
    """

    test: str
    what: str
    turns: int
    truth_ns: float
    recorded_ns: float
    bound: str


def note(what: str, turns: int, truth_ns: float, recorded_ns: float, bound: str) -> None:
    """Enter a comparison; call it before insisting on the bound, so that a broken one is shown as well."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    entry = Entry(test, what, turns, float(truth_ns), float(recorded_ns), bound)
    with Path(path).open("a") as ledger:
        ledger.write(json.dumps(asdict(entry)) + "\n")


def read(path: Path) -> list[Entry]:
    """All entries, in the order in which they were made."""
    return [Entry(**json.loads(line)) for line in path.read_text().splitlines()]
