"""Journal entries become events, and events become rows where no record came."""

import numpy as np

from tcptrace.acquire.recorder import sightings
from tcptrace.trace import wire


def test_a_journal_entry_becomes_a_sighting_that_knows_nothing_else() -> None:
    journal = np.zeros(2, wire.JOURNAL)
    journal["connection_id"] = [7, 8]
    journal["started_ns"] = [123, -1]
    journal["local_addr"] = np.arange(16)
    journal["remote_addr"] = np.arange(16, 32)
    journal["local_port"], journal["remote_port"] = 443, 50_000
    journal["netns"] = 4_026_531_840
    journal["role"], journal["family"], journal["v4_mapped"] = wire.Role.PASSIVE, wire.Family.IPV6, 0
    events = sightings(journal, now_ns=999)
    assert events.dtype == wire.EVENT
    for name in ("connection_id", "local_port", "remote_port", "netns", "role", "family", "v4_mapped"):
        assert (events[name] == journal[name]).all(), name
    for name in ("local_addr", "remote_addr"):
        assert (events[name] == journal[name]).all(), name
    assert (events["kind"] == wire.Kind.SIGHTING).all()
    assert events["first_sent_ns"].tolist() == [123, -1]
    assert events["time_ns"].tolist() == [999, 999]
    for name in ("state", "ca_state", "pending", "reason", "sequence", "length_bytes"):
        assert (events[name] == -1).all(), name
