"""What a recording could not observe: the hooks that its host lacked, from the trace's header."""

from collections.abc import Mapping
from typing import Any

RETRANSMISSION = "retransmission"
SYNACK_RETRANSMISSION = "SYN-ACK retransmission"
RESET_SENT = "reset sent"
DROP = "drop with a reason"


def missing(header: Mapping[str, Any], fact: str) -> str | None:
    """Why nothing of this fact was recorded; None when it was, or when the header does not say."""
    hook = _hook(header, fact)
    return _reason(hook) if hook is not None and hook.get("provider") is None else None


def limited(header: Mapping[str, Any], fact: str) -> str | None:
    """Why the fact was not recorded, or not all of it; None when all of it was."""
    hook = _hook(header, fact)
    if hook is None or (hook.get("provider") is not None and not hook.get("reason")):
        return None
    return _reason(hook)


def _hook(header: Mapping[str, Any], fact: str) -> Mapping[str, Any] | None:
    hooks = header.get("hooks")
    for hook in hooks if isinstance(hooks, list) else []:
        if isinstance(hook, dict) and hook.get("fact") == fact:
            return hook
    return None


def _reason(hook: Mapping[str, Any]) -> str:
    reason = hook.get("reason")
    return reason if isinstance(reason, str) and reason else "the recording does not say why"
