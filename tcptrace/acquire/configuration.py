"""What the programs are told before they are loaded (struct tt_config): what is recorded, and which hooks
there are, so that the verifier never sees what is switched off."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tcptrace.acquire import libbpf
from tcptrace.acquire.choice import Choice
from tcptrace.acquire.providers import ARRIVALS, RUN_DELAY
from tcptrace.trace import wire

# What the programs must know of each other: flag -> the fact that has a provider.
_FACTS = {
    "has_send_reset": "reset sent",
    "has_write": "write entered",
    "has_write_end": "write returned",
    "has_departure": "left for the device",
    "has_segment": "segment reached TCP",
    "has_ready": "data ready",
    "has_read": "read",
    "has_read_end": "read returned",
    "has_retransmit": "retransmission",
    "has_arrival": ARRIVALS,
    "has_run_delay": RUN_DELAY,
}

# Flag -> the tracepoint that must pass so many arguments.
_ARGUMENTS = {
    "has_retransmit_err": ("tcp_retransmit_skb", 3),
    "has_reset_reason": ("tcp_send_reset", 3),
    "has_drop_socket": ("kfree_skb", 4),
}

# Drops that are part of a normal end, or that the packet's own record tells better.
_ORDINARY_DROPS = {"TCP_RESET", "TCP_FASTOPEN", "TCP_CLOSE"}


def configuration(
    choice: Choice,
    variant: Mapping[str, int],
    filters: Iterable[str],
    drop_reasons: Mapping[int, str],
    budget: bool,
) -> bytes:
    """The bytes of a struct tt_config. filters: the maps that have keys, such as "wanted_ports"."""
    config: np.ndarray[Any, Any] = np.zeros((), wire.CONFIG)
    used = choice.used()
    config["cpus"] = libbpf.possible_cpus()
    config["budget"] = budget
    for name, value in variant.items():
        config[name] = value
    for flag, fact in _FACTS.items():
        config[flag] = fact in used
    for flag, (tracepoint, arguments) in _ARGUMENTS.items():
        config[flag] = choice.arguments(tracepoint) >= arguments
    config["has_page_end"] = any(program.endswith("_tcp_sendpage") for program in choice.programs())
    config["write_called"] = "write entered" in used and used["write entered"].kind != "tp_btf"
    config["end_called"] = "write returned" in used and used["write returned"].kind != "tp_btf"
    config["before_queue"] = "net_dev_queue" in choice.programs()
    for name in filters:
        wanted = name.removeprefix("wanted_")
        config["filter_" + (wanted if wanted == "netns" else wanted.removesuffix("s"))] = 1
    config["drop_reasons"] = _bits(drop_reasons)
    return config.tobytes()


def _bits(drop_reasons: Mapping[int, str]) -> np.ndarray[Any, Any]:
    words = np.zeros(4, np.uint64)
    for number, name in drop_reasons.items():
        if number < 256 and name.startswith("TCP_") and name not in _ORDINARY_DROPS:
            words[number >> 6] |= np.uint64(1) << np.uint64(number & 63)
    return words
