"""What to do about the time that a stage takes, in words.

Nothing here is escaped: names of processes are as the recorded host gave them.
"""

from dataclasses import dataclass, field

from tcptrace.analysis.columns import endpoint_text
from tcptrace.analysis.gap import ROUTE, SETUP
from tcptrace.analysis.groups import Key
from tcptrace.analysis.setup import Setup
from tcptrace.units import format_count, format_duration, plural

# Stages of which a change can save a part that nobody knows before; the others go away as a whole.
AT_MOST = frozenset(
    (
        *("app_ns", "sndbuf_ns", "cwnd_ns", "rwnd_ns", "pacing_ns", "kernel_tx_ns", "peer_ns"),
        *("kernel_rx_ns", "app_late_ns", "transfer_ns", ROUTE),
    )
)

_LOST = "find where segments are lost (`tcptrace summary` counts drops, `ethtool -S` those of a device)"
_KINDS = {
    "rto": (
        "waiting for the retransmission timer (RTO) after a loss cost",
        " rto_min of `ip route` bounds it.",
    ),
    "fast": ("losses that duplicate ACKs told of (fast retransmit) cost", ""),
    "tlp": ("lost last segments that a tail loss probe found cost", ""),
}


@dataclass(frozen=True)
class Facts:
    """A group: its key, how many exchanges, mean writes and reads of each, how often the ACK that ended a
    Nagle hold was delayed (None: never judged), congestion controls of its connections and their set-up;
    joined: most have the other end's row in the trace, too."""

    key: Key
    exchanges: int
    calls: dict[str, float]
    delayed_share: float | None
    congestion_controls: list[str]
    joined: bool
    setup: Setup = field(repr=False)

    @property
    def server(self) -> bool:
        return bool(self.key["side"] == "server")

    @property
    def where(self) -> str:
        """`on 10.0.0.2:5000, owner order-gw`; `at port 5000, owner order-db` for a server."""
        if self.server:
            port = self.key["port"]
            place = "at a port not known" if port is None else f"at port {port}"
        else:
            place = f"on {endpoint_text(self.key['remote_addr'], self.key['remote_port'])}"
        return place if self.key["comm"] is None else f"{place}, owner {self.key['comm']}"

    @property
    def own(self) -> str:
        """What this end writes."""
        return "answer" if self.server else "request"

    @property
    def other(self) -> str:
        """What this end reads."""
        return "request" if self.server else "answer"


def words(
    cause: str, cost_ns: int, estimated: bool, facts: Facts, kind: str | None = None
) -> tuple[str, str, str]:
    """What was measured, what to do about it, and what else is known of it (or nothing).

    cause: a stage, gap.ROUTE or gap.SETUP; cost_ns: per exchange; kind: of retransmissions, for a loss.
    """
    time = f"{'~' if estimated else ''}{format_duration(cost_ns)} per exchange"
    if cause == "loss_recovery_ns":
        return _loss(f"{time} {facts.where}", kind)
    if cause == "nagle_ns":
        return _nagle(time, estimated, facts)
    if cause == SETUP:
        return _setup(time, facts)
    what, do = _plain(cause, facts)
    return f"{what.format(time)} {facts.where}", do, ""


def _nagle(time: str, estimated: bool, facts: Facts) -> tuple[str, str, str]:
    writes = facts.calls["writes"]
    now = f" ({writes:.2g} calls now)" if writes >= 1.05 else ""
    notes = []
    if facts.delayed_share:
        notes.append(
            f"the other end delayed its ACK in {100 * facts.delayed_share:.0f} % of the exchanges that were "
            "held; TCP_QUICKACK there makes the hold a round trip"
        )
    if estimated:
        notes.append("in some it can have been MSG_MORE instead, which no hook shows on that host")
    return (
        f"Nagle held {time} {facts.where}",
        f"set TCP_NODELAY, or write the {facts.own} with one call{now}",
        "; ".join(notes),
    )


def _loss(time: str, kind: str | None) -> tuple[str, str, str]:
    known = [_KINDS[name] for name in (kind or "").split("+") if name in _KINDS]
    if not known:
        return f"recovering from losses cost {time}", _LOST, "how they were found is not known"
    verbs = " and ".join(verb.removesuffix(" cost") for verb, _ in known)
    return f"{verbs} cost {time}", _LOST, "".join(note for _, note in known).strip()


def _setup(time: str, facts: Facts) -> tuple[str, str, str]:
    made = facts.setup
    served = f"{plural(made.connections, 'connection')} for {plural(made.exchanges, 'exchange')}"
    unseen = made.connections - made.timed
    return (
        f"setting up connections cost {time} {facts.where} ({served})",
        f"keep connections open and reuse them: {format_count(made.pool)} would have been enough",
        f"the set-up of {format_count(unseen)} of them was not seen" if unseen else "",
    )


def _plain(cause: str, facts: Facts) -> tuple[str, str]:
    """Cause -> (what with a place for the time, what to do)."""
    port = facts.key.get("port", facts.key.get("remote_port"))
    record = f"`tcptrace record{'' if port is None else f' --port {port}'}`"
    controls = f" ({', '.join(facts.congestion_controls)} now)" if facts.congestion_controls else ""
    comm = facts.key["comm"] or "the process"
    client = {
        "app_ns": (
            "the application itself spent {} before the last write of its request",
            "have the whole request ready before the first write",
        ),
        "transfer_ns": (
            "receiving the answer, from its first read to its last, took {}",
            "make it smaller, or see what holds it at the server: "
            + ("it is in this trace" if facts.joined else f"record there, too ({record})"),
        ),
    }
    server = {
        "app_ns": (
            "the application took {} to make its answer",
            f"profile {comm}: this is its own time between reading and writing",
        ),
        "transfer_ns": (
            "receiving the request, from its first read to its last, took {}",
            "make it smaller, or see what holds it at the client: "
            + ("it is in this trace" if facts.joined else "record there, too"),
        ),
    }
    both = {
        "sndbuf_ns": (
            "a full send buffer blocked writes for {}",
            "give the socket a larger one: SO_SNDBUF, net.ipv4.tcp_wmem",
        ),
        "cork_ns": (
            "TCP_CORK or MSG_MORE held {}",
            f"take the cork off, or leave MSG_MORE out, with the last write of the {facts.own}",
        ),
        "cwnd_ns": (
            "the congestion window held {}",
            "reuse connections, whose window has grown (idle ones keep it with "
            "net.ipv4.tcp_slow_start_after_idle=0), or raise the initial one: initcwnd of `ip route`",
        ),
        "rwnd_ns": (
            "the other end's receive window held {}",
            "have its application read sooner, or give it a larger receive buffer: SO_RCVBUF, "
            "net.ipv4.tcp_rmem there",
        ),
        "pacing_ns": (
            "pacing held {}",
            "raise SO_MAX_PACING_RATE where it is set, or use a congestion control that does not "
            f"pace{controls}",
        ),
        "kernel_tx_ns": (
            "the kernel took {} to send",
            "look at what is in the way out: `tc -s qdisc`, `nft list ruleset`, the CPU that it runs on",
        ),
        "kernel_rx_ns": (
            "the kernel took {} to deliver what had arrived",
            "look at the CPUs that receive: /proc/interrupts, RPS and RFS; or poll: net.core.busy_read",
        ),
        "wakeup_ns": (
            "waiting for a CPU took {}",
            f"give {comm} CPU: fewer busy threads beside it, a higher priority, or cores of its own",
        ),
        "app_late_ns": (
            f"the {facts.other} was there and not read for {{}}",
            "read in a thread or an event loop that is never busy with something else for long",
        ),
        "peer_ns": (
            "the other end took {}",
            f"record there, too ({record}): its own budget says where",
        ),
        ROUTE: (
            "the network took {} more than the floor",
            "take a more direct route (dedicated line, no VPN, no proxy or load balancer in the path), or a "
            "server nearer by",
        ),
    }
    return ((server if facts.server else client) | both)[cause]
