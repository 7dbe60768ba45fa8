"""Why a stage of an exchange is null, in words."""

from collections.abc import Mapping
from typing import Any

from tcptrace.analysis import hooks

_HELD = ("left for the device", "segment reached TCP")
_WIRE = ("left for the device", "segment reached TCP", "arrived from the device")
_WAITED = ("data ready", "read", "waiting for a CPU")
# Stage -> the facts without which it is null: BUDGET in acquire/providers.py.
_NEEDS = {
    "app_ns": ("write entered", "write returned"),
    "sndbuf_ns": ("write returned",),
    "nagle_ns": _HELD,
    "cork_ns": _HELD,
    "cwnd_ns": _HELD,
    "rwnd_ns": _HELD,
    "pacing_ns": _HELD,
    "kernel_tx_ns": ("write entered", *_HELD),
    "loss_recovery_ns": ("left for the device", "retransmission"),
    "network_ns": _WIRE,
    "peer_ns": _WIRE,
    "kernel_rx_ns": ("arrived from the device", "segment reached TCP", "data ready"),
    "wakeup_ns": _WAITED,
    "app_late_ns": _WAITED,
    "transfer_ns": ("read",),
}
_UNSEEN = "one of the moments between which it lies was not seen"
_NO_SPLIT = f"{_UNSEEN}, or no round trip of this connection was measured to tell network and other end apart"


def why_unknown(stage: str, row: Mapping[str, Any], header: Mapping[str, Any]) -> str:
    """A clause without a full stop. row: of the table `exchanges`; header: of its trace, whose words may be
    hostile."""
    for fact in _NEEDS.get(stage, ()):
        reason = hooks.missing(header, fact)
        if reason is not None:
            return f"no hook for “{fact}” in this recording: {reason}"
    # Without the answer's arrival there is neither of these, nor anything to tell apart.
    split = stage in ("network_ns", "peer_ns") and row["kernel_rx_ns"] is not None
    return _NO_SPLIT if split else _UNSEEN
