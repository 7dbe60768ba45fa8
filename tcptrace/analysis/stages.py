"""The stages of an exchange, along the path of the byte that the answer waits for, and their groups.

docs/measurement.md defines the instants between which each stage lies.
"""

STAGES = (
    "app_ns",
    "sndbuf_ns",
    "nagle_ns",
    "cork_ns",
    "cwnd_ns",
    "rwnd_ns",
    "pacing_ns",
    "kernel_tx_ns",
    "loss_recovery_ns",
    "network_ns",
    "peer_ns",
    "kernel_rx_ns",
    "wakeup_ns",
    "app_late_ns",
    "transfer_ns",
)

UNATTRIBUTED = "unattributed_ns"

GROUPS = {
    "application": ("app_ns", "app_late_ns"),
    "scheduler": ("wakeup_ns",),
    "kernel": ("kernel_tx_ns", "kernel_rx_ns"),
    "nagle": ("nagle_ns",),
    "flow control": ("sndbuf_ns", "cork_ns", "cwnd_ns", "rwnd_ns", "pacing_ns"),
    "network": ("network_ns",),
    "loss recovery": ("loss_recovery_ns",),
    "peer": ("peer_ns",),
    "transfer": ("transfer_ns",),
    "unattributed": (UNATTRIBUTED,),
}
"""Every stage is in one group; budgets add up by group as they do by stage."""

NOT_AT: dict[str, tuple[str, ...]] = {"client": (), "server": ("loss_recovery_ns", "network_ns", "peer_ns")}
"""Stages that an end does not have: null there by definition, not because something was missed."""
