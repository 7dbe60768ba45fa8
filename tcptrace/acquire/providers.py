"""Which facts are measured, and through which hooks, best first.

Data alone: `choice.py` finds the first provider of each fact that this kernel has and takes. Nothing here
looks at version numbers: those in comments only say which kernels need an entry.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tcptrace.errors import UsageError

NONE = "none"
"""In the place of a provider: the fact is left out."""

_CAPABILITIES = {"tp_btf": "tp:{}", "fexit": "fentry", "kretprobe": "kprobe", "setting": "{}"}


@dataclass(frozen=True)
class Provider:
    """One way to observe a fact.

    kind: tp_btf, fentry, fexit, kprobe, kretprobe, iter or setting; target: the tracepoint, function,
    iterator or setting.
    """

    kind: str
    target: str
    programs: tuple[str, ...] = ()  # attached in this order, all or none; empty for a setting
    also: tuple[
        str, ...
    ] = ()  # programs at functions that only some kernels have and that write or read, too
    estimate: str = ""  # why what it gives is no exact measure; empty: it is
    arguments: int = 1  # the tracepoint must pass at least so many
    all_arguments: int = 0  # with fewer than these it gives part of the fact
    limitation: str = ""  # namely without this

    @property
    def name(self) -> str:
        return self.target if self.kind == "setting" else f"{self.kind}/{self.target}"

    @property
    def exact(self) -> bool:
        return not self.estimate

    @property
    def capability(self) -> str:
        """What a kernel must be able to, in a word: fentry, kprobe, tp:NAME, iter, or the setting."""
        return _CAPABILITIES.get(self.kind, self.kind).format(self.target)


@dataclass(frozen=True)
class Fact:
    """A fact, its providers, and what is lost without any."""

    name: str
    providers: tuple[Provider, ...]
    consequence: str
    required: bool = False


def function_of(program: str) -> str:
    """The kernel's function at which a program such as fentry_tcp_sendmsg is."""
    return program.partition("_")[2]


def _tracepoint(name: str, **options: Any) -> tuple[Provider, ...]:
    return (Provider("tp_btf", name, (name,), **options),)


def _function(kind: str, name: str, also: str = "", estimate: str = "") -> Provider:
    """A program at a function; a kretprobe needs one at the entry, too, which notes the socket."""

    def programs(function: str) -> tuple[str, ...]:
        at_entry = (f"kprobe_{function}",) if kind == "kretprobe" else ()
        return (*at_entry, f"{kind}_{function}") if function else ()

    return Provider(kind, name, programs(name), programs(also), estimate)


LIFECYCLE = (
    Fact(
        "state transition",
        _tracepoint("inet_sock_set_state", arguments=3),
        "no connection can be seen",
        required=True,
    ),
    Fact(
        "end of the socket",
        _tracepoint("tcp_destroy_sock"),
        "a connection whose close the kernel skipped would have no row",
        required=True,
    ),
    Fact(
        "reset sent",
        _tracepoint(
            "tcp_send_reset",
            arguments=2,
            all_arguments=3,  # both came with 6.10
            limitation="this kernel tells of resets of its own sockets only, so those sent to packets "
            "without a connection are not recorded",
        ),
        "close_reason is null where this end sent a reset; resets without a connection are not recorded",
    ),
    Fact(
        "reset received",
        _tracepoint("tcp_receive_reset"),
        "close_reason is null where the peer sent a reset, and aborted where it refused",
    ),
    Fact(
        "retransmission",
        _tracepoint("tcp_retransmit_skb", arguments=2),
        "retransmissions are counted per connection but have no time of their own",
    ),
    Fact(
        "SYN-ACK retransmission",
        _tracepoint("tcp_retransmit_synack", arguments=2),
        "handshake_ns is null at the passive end when its SYN-ACK was lost",
    ),
    Fact(
        "drop with a reason",
        _tracepoint("kfree_skb", arguments=3),
        "TCP packets that this host drops are not recorded",
    ),
    Fact(
        "connections open before and after",
        (Provider("iter", "tcp", ("walk",)),),
        "connections that are open at the start or at the end have no row",
    ),
)

ARRIVALS = "arrived from the device"
RUN_DELAY = "waiting for a CPU"
STAMPS, SCHEDULER = "SO_TIMESTAMPNS", "sched_info.run_delay"

BUDGET = (
    Fact(
        "write entered",
        (
            *_tracepoint("tcp_sendmsg_locked", arguments=4),
            _function("fentry", "tcp_sendmsg_locked", "do_tcp_sendpages"),
            _function("kprobe", "tcp_sendmsg_locked", "do_tcp_sendpages"),
            _function(
                "fentry",
                "tcp_sendmsg",
                "do_tcp_sendpages",
                estimate="kernel_tx_ns and sndbuf_ns contain a write's wait for its socket, app_ns does not",
            ),
        ),
        "a turn begins with its first transmission, app_ns and kernel_tx_ns are null, and a hold by MSG_MORE "
        "cannot be told from Nagle's (hold_ambiguous)",
    ),
    Fact(
        "write returned",
        (
            *_tracepoint("sock_send_length", arguments=3, also=("fexit_tcp_sendpage",)),
            _function("fexit", "tcp_sendmsg", "tcp_sendpage"),
            _function("kretprobe", "tcp_sendmsg", "tcp_sendpage"),
        ),
        "app_ns, sndbuf_ns and writes are null",
    ),
    Fact(
        "left for the device",
        (
            *_tracepoint("net_dev_start_xmit", arguments=2),
            *_tracepoint(
                "net_dev_queue",
                estimate="network_ns contains the wait in this host's queueing discipline, kernel_tx_ns "
                "does not",
            ),
        ),
        "kernel_tx_ns, network_ns, peer_ns, loss_recovery_ns, sndbuf_ns and the other holds are null",
    ),
    Fact(
        "segment reached TCP",
        _tracepoint("tcp_probe", arguments=2),
        "network_ns, peer_ns, kernel_rx_ns, kernel_tx_ns, sndbuf_ns and the other holds are null",
    ),
    Fact(
        "data ready",
        (
            *_tracepoint("sk_data_ready"),
            _function("fentry", "sock_def_readable"),
            _function("kprobe", "sock_def_readable"),
        ),
        "kernel_rx_ns, wakeup_ns and app_late_ns are null",
    ),
    Fact(
        "read",
        _tracepoint("tcp_rcv_space_adjust"),
        "no turn can be seen to end",
    ),
    Fact(
        "read returned",
        (
            *_tracepoint("sock_recv_length", arguments=3),
            _function("fexit", "tcp_recvmsg"),
            # the next call instead: readers wait inside, and only so many returns are waited for at once
            _function("kprobe", "tcp_recvmsg"),
        ),
        "reads is null",
    ),
    # Nothing but the packet's stamp ties an arrival to its socket: at netif_receive_skb there is none yet.
    Fact(
        ARRIVALS,
        (Provider("setting", STAMPS),),
        "network_ns, peer_ns and kernel_rx_ns are null",
    ),
    Fact(
        RUN_DELAY,
        (Provider("setting", SCHEDULER),),
        "wakeup_ns and app_late_ns are null",
    ),
)
"""What the budget needs besides: without `left for the device`, say, its stages are null."""


@dataclass(frozen=True)
class Hook:
    """What became of one fact in this recording: its provider, or None; why it is missing, or not whole.

    `providers`: every one, best first, with the reason why it cannot be used, as far as one was found.
    """

    fact: str
    provider: str | None
    exact: bool
    reason: str | None
    providers: tuple[tuple[Provider, str | None], ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "fact": self.fact,
            "provider": self.provider,
            "exact": self.exact,
            "reason": self.reason,
            "providers": [
                {
                    "provider": provider.name,
                    "used": provider.name == self.provider,
                    "exact": provider.exact,
                    "capability": provider.capability,
                    "reason": reason,
                }
                for provider, reason in self.providers
            ],
        }


def forced(options: Iterable[str], facts: Iterable[Fact] = LIFECYCLE + BUDGET) -> Mapping[str, str]:
    """Fact -> provider's name or NONE, of options FACT=PROVIDER; a kind serves where it is unambiguous.

    Raises UsageError naming what is known.
    """
    by_name = {fact.name: fact for fact in facts}
    chosen: dict[str, str] = {}
    for option in options:
        name, equals, wanted = (part.strip() for part in option.partition("="))
        if not equals:
            raise UsageError(f"--provider {option!r} is not FACT=PROVIDER, such as 'read returned=fexit'")
        fact = by_name.get(name)
        if fact is None:
            raise UsageError(
                f"--provider {option!r}: there is no fact {name!r}; facts are {', '.join(by_name)}"
            )
        if name in chosen:
            raise UsageError(f"--provider {option!r}: {name!r} is given twice")
        chosen[name] = _named(fact, wanted, option)
    return chosen


def _named(fact: Fact, wanted: str, option: str) -> str:
    names = [provider.name for provider in fact.providers]
    if wanted == NONE:
        if fact.required:
            raise UsageError(f"--provider {option!r}: without this fact {fact.consequence}")
        return NONE
    found = [p.name for p in fact.providers if wanted in (p.name, p.kind)]
    if len(found) == 1:
        return found[0]
    problem = f"{wanted!r} may be {' or '.join(found)}" if found else f"there is no provider {wanted!r}"
    known = ", ".join(names if fact.required else [*names, NONE])
    raise UsageError(f"--provider {option!r}: {problem}; those of {fact.name!r} are {known}")
