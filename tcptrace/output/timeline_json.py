"""Time lines as JSON for programs: the fields of their dataclasses, names exact."""

from dataclasses import asdict
from typing import Any

from tcptrace import __version__
from tcptrace.analysis.course import Course
from tcptrace.analysis.timeline import ExchangeLine


def exchange_json(line: ExchangeLine) -> dict[str, Any]:
    return {"tcptrace": __version__, **asdict(line)}


def course_json(course: Course) -> dict[str, Any]:
    """Every entry has its kind: handshake, passage, gap, omission, happening, end."""
    made = asdict(course)
    made["entries"] = [{"kind": type(entry).__name__.lower(), **asdict(entry)} for entry in course.entries]
    return {"tcptrace": __version__, **made}
