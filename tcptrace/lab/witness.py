"""What is known of a scenario without tcptrace: the parts' notes, the kernel's counters, the link's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tcptrace.errors import TcptraceError

if TYPE_CHECKING:
    from tcptrace.lab.link import Log


class Notes:
    """What one part noted. `notes["connect_ns"]` is the list of what it noted under that name."""

    def __init__(self, part: str, noted: Mapping[str, Any]) -> None:
        self.part = part
        self._noted = dict(noted)
        self.kernel: dict[str, int] = self._noted.pop("kernel", {})
        """By how much the counters of the part's namespace changed; those that did not are left out."""

    def __getitem__(self, what: str) -> list[Any]:
        if what not in self._noted:
            raise TcptraceError(f"the {self.part} noted no {what!r}")
        noted: list[Any] = self._noted[what]
        return noted

    def __contains__(self, what: str) -> bool:
        return what in self._noted

    def one(self, what: str) -> Any:
        """The only value under a name."""
        values = self[what]
        if len(values) != 1:
            raise TcptraceError(f"the {self.part} noted {what!r} {len(values)} times")
        return values[0]


@dataclass(frozen=True)
class Witness:
    """Everything that a scenario's truth may look at."""

    client: Notes
    server: Notes
    log: Log | None
    """The relay's, when it carried the packets: see :data:`tcptrace.lab.link.RECORD`."""
    delay_ns: int | None
    """One way, as the link was told; None between machines, where nobody here knows."""


def kernel_sum(notes: Sequence[Notes], name: str) -> int:
    """A counter's change, summed over parts; 0 when it did not change."""
    return sum(one.kernel.get(name, 0) for one in notes)
