"""How templates become text of a page: what they print is spelled out, then escaped."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from tcptrace import units
from tcptrace.output import colours, report_text
from tcptrace.output.escape import visible
from tcptrace.output.stage_words import group_name


def environment(directory: Path) -> Environment:
    """Templates of this directory, with the filters and names that all pages share."""

    def spell(value: object) -> object:
        """Every string that a template prints has its control and bidirectional characters made visible,
        before it is escaped; Markup is what the templates made themselves."""
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    made = Environment(
        loader=FileSystemLoader(directory),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=spell,
    )
    made.filters |= {
        "duration": units.format_duration,
        "count": units.format_count,
        "size": units.format_size,
        "plural": units.plural,
        "share": report_text.share,
        "variable": colours.variable,
        "group": group_name,
    }
    made.globals["NO_VALUE"] = units.UNKNOWN
    return made


def with_code(text: str) -> Markup:
    """Escaped; what stands between two backticks is code."""
    parts = [escape(visible(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return Markup("`").join(parts)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )
