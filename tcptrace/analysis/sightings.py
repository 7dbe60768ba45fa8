"""Connections that were seen but have no record of their own: the kernel skipped the programs at their end.

What a sighting knows is who talked to whom and when it started; everything else of the row is null.
"""

import numpy as np
import pyarrow as pa

from tcptrace.analysis.columns import bool_array, int_array, plain
from tcptrace.trace.wire import CloseReason, Flag, Initiator, Kind

_KNOWN = ("connection_id", "role", "family", "v4_mapped", "netns", "local_addr", "remote_addr")
_PORTS = ("local_port", "remote_port")


def with_sightings(records: pa.Table, events: pa.Table) -> pa.Table:
    """The raw connection records, and one more for each sighted connection that has none."""
    sighted = events.filter(bool_array(plain(events, "kind") == Kind.SIGHTING))
    if not sighted.num_rows:
        return records
    ids = plain(sighted, "connection_id")
    _, first = np.unique(ids, return_index=True)
    new = first[~np.isin(ids[first], plain(records, "connection_id"))]
    sighted = sighted.take(int_array(new))
    zero = int_array(np.zeros(len(new), np.int64))
    made = {name: sighted[name] for name in (*_KNOWN, *_PORTS)}
    made["started_ns"] = sighted["first_sent_ns"]
    made["seen_ns"] = int_array(plain(sighted, "time_ns"))
    made["kind"] = int_array(np.full(len(new), Kind.CONNECTION, np.int64))
    made["flags"] = int_array(np.full(len(new), Flag.STATES_BROKEN, np.int64))
    made["close_reason"] = int_array(np.full(len(new), CloseReason.UNKNOWN, np.int64))
    made["initiator"] = int_array(np.full(len(new), Initiator.UNKNOWN, np.int64))
    made["state"] = zero
    columns = [
        made[field.name].cast(field.type) if field.name in made else pa.nulls(len(new), field.type)
        for field in records.schema
    ]
    return pa.concat_tables([records, pa.table(columns, schema=records.schema)]).combine_chunks()
