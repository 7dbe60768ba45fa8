"""What each section of the report says: small tables made from the frames, and their figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from tcptrace.output import figures, figures_events
from tcptrace.output.report_frame import ROLES, STATES, Quantiles, quantiles
from tcptrace.output.report_text import share

STATE_WAITS = {
    "syn_sent": "waits for the SYN-ACK: network, the other kernel, lost SYNs",
    "syn_recv": "SYN-ACK sent, waits for the ACK: network and client",
    "established": "open for data",
    "fin_wait1": "own FIN sent, waits for its ACK: unsent data and network",
    "fin_wait2": "own FIN acknowledged, waits for the other application to close",
    "closing": "both closed at once, waits for the ACK",
    "time_wait": "keeps the tuple reserved after the close",
    "close_wait": "the other end closed, waits for this application to close",
    "last_ack": "own FIN sent last, waits for its ACK",
}
REASONS = {
    "fin": "closed by FIN",
    "reset_sent": "reset sent",
    "reset_received": "reset received",
    "refused": "refused",
    "timeout": "timed out",
    "aborted": "given up before it was established",
    "open": "still open at the end",
    "unknown": "not known",
}
FAILED = ("refused", "timeout", "aborted")
PLACES = 12  # rows of the tables of drops and resets


@dataclass(frozen=True)
class HandshakeRow:
    role: str
    times: Quantiles
    exact: int
    estimated: int
    missing: int


@dataclass(frozen=True)
class Handshakes:
    rows: list[HandshakeRow]
    curve: Any | None
    heatmap: Any | None


def handshakes(frame: pd.DataFrame, span_s: float) -> Handshakes:
    rows, curves, styles, maps = [], {}, [], {}
    for role in ("active", "passive"):
        own = frame[frame["role"] == role]
        known = own[own["handshake_ns"].notna()]
        exact = int((known["handshake_exact"] == 1).sum())
        rows.append(
            HandshakeRow(
                role, quantiles(known["handshake_ns"]), exact, len(known) - exact, len(own) - len(known)
            )
        )
        if len(known):
            name = (
                role if exact == len(known) else f"{role} ({share(len(known) - exact, len(known))} estimated)"
            )
            curves[name] = known["handshake_ns"]
            styles.append((figures.COLOUR[role], "solid"))
        placed = known[known["start_s"].notna()]
        if len(placed):
            maps[role] = placed[["start_s", "handshake_ns"]]
    return Handshakes(
        rows,
        figures.percentile_curve(curves, styles) if curves else None,
        figures.latency_heatmap(maps, span_s) if maps else None,
    )


@dataclass(frozen=True)
class StateRow:
    state: str
    waits: str
    role: str
    times: Quantiles
    missing: int


@dataclass(frozen=True)
class States:
    whole: int
    censored: int
    rows: list[StateRow]
    unseen: list[str]
    figure: Any | None


def states(frame: pd.DataFrame) -> States:
    """Only connections that were seen from beginning to end: the others' times are lower bounds."""
    whole = frame[(frame["left_censored"] != 1) & (frame["right_censored"] != 1)]
    by_role = {role: whole[whole["role"] == role] for role in ROLES}
    rows, unseen = [], []
    for state in STATES:
        seen = False
        for role, own in by_role.items():
            times = quantiles(own[f"{state}_ns"])
            if times.n:
                seen = True
                rows.append(StateRow(state.upper(), STATE_WAITS[state], role, times, len(own) - times.n))
        if not seen:
            unseen.append(state.upper())
    drawn = [(row.state, row.role, row.times) for row in rows]
    return States(
        len(whole),
        len(frame) - len(whole),
        rows,
        unseen,
        figures_events.state_ranges(drawn) if drawn else None,
    )


@dataclass(frozen=True)
class ReasonRow:
    reason: str
    words: str
    by_role: dict[str, int]
    by_initiator: dict[str, int]
    total: int


@dataclass(frozen=True)
class Teardown:
    rows: list[ReasonRow]
    roles: list[str]
    initiators: list[str]
    figure: Any | None

    def total(self, *reasons: str) -> int:
        return sum(row.total for row in self.rows if row.reason in reasons)


def teardown(frame: pd.DataFrame) -> Teardown:
    if not len(frame):
        return Teardown([], [], [], None)
    reason = frame["close_reason"].astype(object).where(frame["close_reason"].notna(), "unknown")
    initiator = frame["initiator"].astype(object)
    initiator = initiator.where(initiator.isin(list(figures_events.INITIATOR_COLOUR)), "not known")
    by_role = pd.crosstab(reason, frame["role"].astype(object))
    by_initiator = pd.crosstab(reason, initiator).reindex(
        columns=list(figures_events.INITIATOR_COLOUR), fill_value=0
    )
    rows = []
    for name in [name for name in REASONS if name in by_role.index]:
        roles = {str(key): int(value) for key, value in by_role.loc[name].to_dict().items()}
        initiators = {str(key): int(value) for key, value in by_initiator.loc[name].to_dict().items()}
        rows.append(ReasonRow(name, REASONS[name], roles, initiators, sum(roles.values())))
    drawn = by_initiator.loc[[row.reason for row in rows]]
    return Teardown(
        rows,
        [role for role in ROLES if role in by_role.columns],
        [name for name in figures_events.INITIATOR_COLOUR if by_initiator[name].any()],
        figures_events.close_reasons(drawn.set_axis([row.words for row in rows])),
    )


@dataclass(frozen=True)
class RetransmitRow:
    what: str
    segments: int
    connections: int
    of_connections: int
    events: int


@dataclass(frozen=True)
class PlaceRow:
    reason: str
    local_port: int | None
    count: int


@dataclass(frozen=True)
class Retransmits:
    rows: list[RetransmitRow]
    segments_sent: int
    drops: list[PlaceRow]
    drop_count: int
    drop_places: int
    resets: list[PlaceRow]
    reset_count: int
    reset_places: int
    figure: Any | None

    def row(self, what: str) -> RetransmitRow:
        return next(row for row in self.rows if row.what == EVENT_NAMES[what])


EVENT_NAMES = {"syn": "SYN", "synack": "SYN-ACK", "data": "data and FIN", "drop": "drop"}


def retransmits(
    frame: pd.DataFrame,
    events: pd.DataFrame,
    span_s: float,
    drop_reasons: Mapping[int, str],
    reset_reasons: Mapping[int, str],
) -> Retransmits:
    rows = []
    for what, column in (
        ("syn", "syn_retransmits"),
        ("synack", "synack_retransmits"),
        ("data", "retransmits"),
    ):
        values = frame[column]
        rows.append(
            RetransmitRow(
                EVENT_NAMES[what],
                int(values.sum()),
                int((values > 0).sum()),
                int(values.notna().sum()),
                int((events["what"] == what).sum()),
            )
        )
    drops, drop_places = _places(events[events["what"] == "drop"], drop_reasons)
    resets, reset_places = _places(events[events["what"] == "reset"], reset_reasons)
    drawn = events[events["what"].isin(list(EVENT_NAMES))]
    drawn = drawn.assign(name=drawn["what"].map(EVENT_NAMES))
    return Retransmits(
        rows,
        int(frame["segments_sent"].sum()),
        drops,
        int((events["what"] == "drop").sum()),
        drop_places,
        resets,
        int((events["what"] == "reset").sum()),
        reset_places,
        figures_events.events_over_time(drawn, span_s) if len(drawn) else None,
    )


def _places(events: pd.DataFrame, names: Mapping[int, str]) -> tuple[list[PlaceRow], int]:
    """The most frequent (reason, local port) pairs, and how many pairs there are."""
    counts = events.groupby(["reason", "local_port"]).size().sort_values(ascending=False, kind="stable")
    rows = []
    for place, number in counts.head(PLACES).to_dict().items():
        reason, port = (int(part) for part in cast(tuple[int, int], place))
        name = names.get(reason, "not known" if reason < 0 else f"reason {reason}")
        rows.append(PlaceRow(name, port or None, int(number)))
    return rows, len(counts)
