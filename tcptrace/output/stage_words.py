"""What a stage of an exchange is called, and what happens in it, in words for people."""

from tcptrace.analysis.stages import GROUPS, STAGES, UNATTRIBUTED

# Stage -> (name, what takes this time). The same words in every command and on every page.
WORDS = {
    "app_ns": ("application", "the application's own time before its last write"),
    "sndbuf_ns": ("send buffer", "a write was blocked because the send buffer was full"),
    "nagle_ns": ("Nagle", "a small segment was held until earlier data was acknowledged"),
    "cork_ns": ("cork", "held by TCP_CORK or MSG_MORE"),
    "cwnd_ns": ("congestion window", "held because the congestion window was full"),
    "rwnd_ns": ("receive window", "held because the other end's receive window was full"),
    "pacing_ns": ("pacing", "held by pacing, or by the limit of bytes in the device's queue"),
    "kernel_tx_ns": ("kernel, sending", "from the last write to the device, unless held"),
    "loss_recovery_ns": ("loss recovery", "from first to last transmission of the request's last byte"),
    "network_ns": ("network", "on the way, there and back"),
    "peer_ns": ("other end", "from the request's arrival at the other end to its answer's departure"),
    "kernel_rx_ns": ("kernel, receiving", "from the device until the data was ready to read"),
    "wakeup_ns": ("scheduler", "the data was ready and the reader waited for a CPU"),
    "app_late_ns": ("late read", "the data was ready and the application was busy elsewhere"),
    "transfer_ns": ("transfer", "from the first read to the last"),
    UNATTRIBUTED: ("unattributed", "measured as part of the total, but in no known stage"),
}

# Groups whose name is not what people call them.
_GROUPS = {"nagle": "Nagle", "peer": "other end"}

assert set(_GROUPS) < set(GROUPS)
assert set(WORDS) == {*STAGES, UNATTRIBUTED}


def stage_name(stage: str) -> str:
    return WORDS[stage][0]


def stage_meaning(stage: str) -> str:
    return WORDS[stage][1]


def group_name(group: str) -> str:
    return _GROUPS.get(group, group)
