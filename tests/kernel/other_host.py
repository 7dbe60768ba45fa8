"""Makes a trace look as if another host had recorded it: other clocks, another boot, another name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tcptrace.trace import frame
from tcptrace.trace.batch import SCHEMA
from tcptrace.trace.writer import HEADER_KEY, TRAILER_KEY

INSTANTS = ("started_ns", "ended_ns", "seen_ns", "time_ns", "first_sent_ns")
"""The columns that are CLOCK_MONOTONIC; every other _ns is a duration."""


def move(source: Path, target: Path, *, ahead_ns: int, booted_ns: int) -> None:
    """Rewrite a trace as one of a host whose wall clock is ahead by so much and which has another uptime.

    Every CLOCK_MONOTONIC value grows by `booted_ns`, every CLOCK_REALTIME value by `ahead_ns`; nothing that
    was measured changes.
    """

    def moved(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: moved(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [moved(inner) for inner in value]
        by = {"monotonic_ns": booted_ns, "realtime_ns": ahead_ns}.get(key)
        return value if by is None or value is None else int(value) + by

    with source.open("rb") as old, target.open("xb") as new:
        schema = frame.read_message(old)
        assert schema
        metadata = pa.ipc.read_schema(pa.py_buffer(schema)).metadata
        header = moved(json.loads(metadata[HEADER_KEY.encode()]))
        header |= {"trace_id": "another-host", "boot_id": "another-boot", "hostname": "another"}
        encoder = frame.Encoder(SCHEMA.with_metadata({HEADER_KEY: json.dumps(header)}))
        new.write(encoder.schema())
        while (message := frame.read_message(old)) is not None:
            batch, found = frame.decode(schema, message), frame.metadata_of(message)
            for name in INSTANTS:
                place = batch.schema.get_field_index(name)
                batch = batch.set_column(place, batch.schema.field(place), pc.add(batch[place], booted_ns))
            texts = {
                key.decode(): text.decode() for key, text in found.items() if key.decode() != frame.CRC_KEY
            }
            texts = {key: str(moved(text, key)) for key, text in texts.items()}
            if TRAILER_KEY in texts:
                texts[TRAILER_KEY] = json.dumps(moved(json.loads(texts[TRAILER_KEY])))
            new.write(encoder.batch(batch, texts | {"trace_id": "another-host"}))
        new.write(frame.END_OF_STREAM)
