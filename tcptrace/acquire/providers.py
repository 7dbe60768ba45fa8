"""Which facts this kernel can give, and through which hook.

One entry per measured fact; the first provider that works is used. Nothing here looks at version numbers:
a tracepoint is there when the kernel's BTF has it, a program works when the kernel takes it.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fact:
    """A fact, the program that provides it, and what is lost without it."""

    name: str
    program: str
    provider: str
    consequence: str
    required: bool = False
    arguments: int = 1  # the tracepoint must pass at least so many
    all_arguments: int = 0  # with fewer than these it gives part of the fact
    limitation: str = ""  # namely without this

    @property
    def tracepoint(self) -> str | None:
        kind, _, event = self.provider.partition("/")
        return event if kind == "tp_btf" else None


LIFECYCLE = (
    Fact(
        "state transition",
        "inet_sock_set_state",
        "tp_btf/inet_sock_set_state",
        "no connection can be seen",
        required=True,
        arguments=3,
    ),
    Fact(
        "end of the socket",
        "tcp_destroy_sock",
        "tp_btf/tcp_destroy_sock",
        "a connection whose close the kernel skipped would have no row",
        required=True,
    ),
    Fact(
        "reset sent",
        "tcp_send_reset",
        "tp_btf/tcp_send_reset",
        "close_reason is null where this end sent a reset; resets without a connection are not recorded",
        arguments=2,
        all_arguments=3,  # both came with 6.10
        limitation="this kernel tells of resets of its own sockets only, so those sent to packets without a "
        "connection are not recorded",
    ),
    Fact(
        "reset received",
        "tcp_receive_reset",
        "tp_btf/tcp_receive_reset",
        "close_reason is null where the peer sent a reset, and aborted where it refused",
    ),
    Fact(
        "retransmission",
        "tcp_retransmit_skb",
        "tp_btf/tcp_retransmit_skb",
        "retransmissions are counted per connection but have no time of their own",
        arguments=2,
    ),
    Fact(
        "SYN-ACK retransmission",
        "tcp_retransmit_synack",
        "tp_btf/tcp_retransmit_synack",
        "handshake_ns is null at the passive end when its SYN-ACK was lost",
        arguments=2,
    ),
    Fact(
        "drop with a reason",
        "kfree_skb",
        "tp_btf/kfree_skb",
        "TCP packets that this host drops are not recorded",
        arguments=3,
    ),
    Fact(
        "connections open before and after",
        "walk",
        "iter/tcp",
        "connections that are open at the start or at the end have no row",
    ),
)


BUDGET = (
    Fact(
        "write entered",
        "tcp_sendmsg_locked",
        "tp_btf/tcp_sendmsg_locked",
        "a turn begins with its first transmission, app_ns and kernel_tx_ns are null, and a hold by MSG_MORE "
        "cannot be told from Nagle's (hold_ambiguous)",
        arguments=4,
    ),
    Fact(
        "write returned",
        "sock_send_length",
        "tp_btf/sock_send_length",
        "app_ns, sndbuf_ns and writes are null",
        arguments=3,
    ),
    Fact(
        "left for the device",
        "net_dev_start_xmit",
        "tp_btf/net_dev_start_xmit",
        "kernel_tx_ns, network_ns, peer_ns, loss_recovery_ns, sndbuf_ns and the other holds are null",
        arguments=2,
    ),
    Fact(
        "segment reached TCP",
        "tcp_probe",
        "tp_btf/tcp_probe",
        "network_ns, peer_ns, kernel_rx_ns, kernel_tx_ns, sndbuf_ns and the other holds are null",
        arguments=2,
    ),
    Fact(
        "data ready",
        "sk_data_ready",
        "tp_btf/sk_data_ready",
        "kernel_rx_ns, wakeup_ns and app_late_ns are null",
    ),
    Fact(
        "read",
        "tcp_rcv_space_adjust",
        "tp_btf/tcp_rcv_space_adjust",
        "no turn can be seen to end",
    ),
    Fact(
        "read returned",
        "sock_recv_length",
        "tp_btf/sock_recv_length",
        "reads is null",
        arguments=3,
    ),
)
"""What the budget needs besides: without `left for the device`, say, its stages are null."""

ARRIVALS = "arrived from the device"
RUN_DELAY = "waiting for a CPU"


@dataclass(frozen=True)
class Hook:
    """What became of one fact in this recording: its provider, or None; why it is missing, or not whole."""

    fact: str
    provider: str | None
    exact: bool
    reason: str | None

    def as_json(self) -> dict[str, Any]:
        return {"fact": self.fact, "provider": self.provider, "exact": self.exact, "reason": self.reason}
