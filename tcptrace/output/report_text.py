"""How names and shares become text of the report, and data part of its page."""

import html
import json

from tcptrace.output.escape import visible
from tcptrace.units import UNKNOWN

NO_BUDGET = (
    "This recording has no latency budget, so it does not say where the time of requests went: "
    "`tcptrace record` without `--mode lifecycle` makes one."
)


def label(text: str) -> str:
    """A name for a figure. Plotly renders <a>, <b> and entities in every label and hover text."""
    return html.escape(visible(text), quote=False)


def script_json(value: object) -> str:
    """JSON that can stand inside a <script> element: no character of it ends the element or the line."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def share(part: float, whole: float) -> str:
    """A percentage; what is not nothing never reads as 0, what is not everything never as 100."""
    if not whole:
        return UNKNOWN
    percent = 100 * part / whole
    if 0 < percent < 0.01:
        return "< 0.01 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    if not part:
        return "0 %"
    return "100 %" if percent == 100 else f"{percent:.{1 if percent >= 10 else 2}f} %"


def endpoint(address: str | None, port: float | None) -> str:
    """`192.0.2.1:443`, `[2001:db8::1]:443`; an unbound port reads as *."""
    shown = "*" if not port or port != port else f"{port:.0f}"
    if address is None:
        return UNKNOWN
    return f"[{address}]:{shown}" if ":" in address else f"{address}:{shown}"
