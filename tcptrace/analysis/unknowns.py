"""Why a stage of an exchange is null, in words."""

from collections.abc import Mapping
from typing import Any

from tcptrace.analysis import hooks

_HELD = ("write entered", "left for the device", "segment reached TCP")
# Stage -> the facts without which it is null; see acquire.providers.
_NEEDS = {
    "app_ns": ("write entered",),
    "sndbuf_ns": ("write entered", "write returned"),
    "nagle_ns": _HELD,
    "cork_ns": _HELD,
    "cwnd_ns": _HELD,
    "rwnd_ns": _HELD,
    "pacing_ns": _HELD,
    "kernel_tx_ns": ("write entered", "left for the device"),
    "loss_recovery_ns": ("left for the device", "retransmission"),
    "network_ns": ("left for the device", "arrived from the device"),
    "peer_ns": ("left for the device", "arrived from the device"),
    "kernel_rx_ns": ("arrived from the device", "data ready"),
    "wakeup_ns": ("data ready", "read returned", "scheduler delay"),
    "app_late_ns": ("data ready", "read returned", "scheduler delay"),
    "transfer_ns": ("read returned",),
}
_UNSEEN = "one of the moments between which it lies was not seen"
_NO_SPLIT = f"{_UNSEEN}, or no round trip of this connection was measured to tell network and other end apart"


def why_unknown(stage: str, header: Mapping[str, Any]) -> str:
    """A clause without a full stop. header: of the exchange's trace, whose words may be hostile."""
    for fact in _NEEDS.get(stage, ()):
        reason = hooks.missing(header, fact)
        if reason is not None:
            return f"no hook for “{fact}” in this recording: {reason}"
    return _NO_SPLIT if stage in ("network_ns", "peer_ns") else _UNSEEN
