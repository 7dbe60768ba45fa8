"""The columns of the tables `connections` and `exchanges`, in order."""

import pyarrow as pa

from tcptrace.analysis.stages import STAGES

# started_ns and ended_ns are wall clock (ns since 1970), every other _ns is a duration. Null: not observed.
CONNECTIONS = pa.schema(
    [
        ("connection_id", pa.int64()),
        ("cookie", pa.int64()),
        ("netns", pa.int64()),
        ("family", pa.string()),
        ("v4_mapped", pa.bool_()),
        ("local_addr", pa.string()),
        ("local_port", pa.int64()),
        ("remote_addr", pa.string()),
        ("remote_port", pa.int64()),
        ("role", pa.string()),
        ("pid", pa.int64()),
        ("comm", pa.string()),
        ("started_ns", pa.int64()),
        ("ended_ns", pa.int64()),
        ("handshake_ns", pa.int64()),
        ("handshake_exact", pa.bool_()),
        ("syn_retransmits", pa.int64()),
        ("synack_retransmits", pa.int64()),
        ("syn_sent_ns", pa.int64()),
        ("syn_recv_ns", pa.int64()),
        ("established_ns", pa.int64()),
        ("fin_wait1_ns", pa.int64()),
        ("fin_wait2_ns", pa.int64()),
        ("closing_ns", pa.int64()),
        ("time_wait_ns", pa.int64()),
        ("close_wait_ns", pa.int64()),
        ("last_ack_ns", pa.int64()),
        ("time_wait_exact", pa.bool_()),
        ("mss", pa.int64()),
        ("snd_wscale", pa.int64()),
        ("rcv_wscale", pa.int64()),
        ("sack", pa.bool_()),
        ("timestamps", pa.bool_()),
        ("ecn", pa.bool_()),
        ("tfo", pa.bool_()),
        ("snd_isn", pa.int64()),
        ("rcv_isn", pa.int64()),
        ("congestion_control", pa.string()),
        ("retransmits", pa.int64()),
        ("srtt_us", pa.int64()),
        ("min_rtt_us", pa.int64()),
        ("bytes_sent", pa.int64()),
        ("bytes_received", pa.int64()),
        ("segments_sent", pa.int64()),
        ("segments_received", pa.int64()),
        ("close_reason", pa.string()),
        ("initiator", pa.string()),
        ("left_censored", pa.bool_()),
        ("right_censored", pa.bool_()),
        ("state", pa.string()),
        ("pattern", pa.string()),
        ("exchanges", pa.int64()),
        ("pipelined", pa.int64()),
        ("held_nagle_ns", pa.int64()),
        ("held_cork_ns", pa.int64()),
        ("held_cwnd_ns", pa.int64()),
        ("held_rwnd_ns", pa.int64()),
        ("held_pacing_ns", pa.int64()),
        ("held_sndbuf_ns", pa.int64()),
        ("unread_ns", pa.int64()),
    ]
)

# One row per turn and end. The stages and unattributed_ns add up to total_ns, nulls counting 0.
EXCHANGES = pa.schema(
    [
        ("connection_id", pa.int64()),
        ("seq", pa.int64()),
        ("side", pa.string()),
        ("started_ns", pa.int64()),
        ("total_ns", pa.int64()),
        *((stage, pa.int64()) for stage in STAGES),
        ("unattributed_ns", pa.int64()),
        ("network_exact", pa.bool_()),
        ("delayed_ack", pa.bool_()),
        ("hold_ambiguous", pa.bool_()),
        ("request_bytes", pa.int64()),
        ("response_bytes", pa.int64()),
        ("writes", pa.int64()),
        ("reads", pa.int64()),
        ("retransmits", pa.int64()),
        ("retransmit_kind", pa.string()),
        ("peer_connection_id", pa.int64()),
        ("peer_seq", pa.int64()),
    ]
)

# Sums over turns that have no row of their own: every duration and count adds up `exchanges` of them.
SUMS = EXCHANGES.append(pa.field("exchanges", pa.int64()))

# Time in each state, as far as records carry it; time_wait_ns is not observed yet.
STATE_TIMES = (
    "syn_sent_ns",
    "syn_recv_ns",
    "established_ns",
    "fin_wait1_ns",
    "fin_wait2_ns",
    "closing_ns",
    "close_wait_ns",
    "last_ack_ns",
)

# What only a recording with the budget knows of a connection.
BUDGET = (
    "exchanges",
    "pipelined",
    "held_nagle_ns",
    "held_cork_ns",
    "held_cwnd_ns",
    "held_rwnd_ns",
    "held_pacing_ns",
    "held_sndbuf_ns",
    "unread_ns",
)
