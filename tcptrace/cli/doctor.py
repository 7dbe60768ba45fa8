"""tcptrace doctor."""

import json
import sys
from collections.abc import Mapping

import click

from tcptrace import invocation
from tcptrace.cli import CONTEXT
from tcptrace.cli.common import provider_option
from tcptrace.errors import EXIT_HOST, EXIT_OK
from tcptrace.output.escape import visible


@click.command("doctor", context_settings=CONTEXT)
@provider_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(providers: Mapping[str, str], as_json: bool) -> int:
    """Say whether this host can record, and what it can measure.

    Each requirement is checked by itself: privileges, BTF, libbpf 1.x, the eBPF programs, lockdown, tracefs.
    Then the programs are really loaded and attached for a moment, because kernels differ in what they allow.
    For each measured fact every hook that can provide it is printed, best first: which one is in use, whether
    it is exact, and why a better one is not; for each failed check what that prevents and the next command to
    type. With --provider: what a recording with the same option would have.

    Run it as root; without privileges the trial is left out.

    \b
    Exit status: 0 when this host can record, 3 when it cannot.
    """
    from tcptrace.acquire.preflight import preflight

    result = preflight(providers)
    code = EXIT_OK if result.ready else EXIT_HOST
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
        return code
    from rich.table import Table
    from rich.text import Text

    from tcptrace.output.terminal import console as terminal_console

    console = terminal_console(sys.stdout)
    marks = {True: ("ok", "green"), False: ("no", "red"), None: ("?", "yellow")}
    for check in result.checks:
        word, color = marks[check.ok]
        if check.ok is False and not check.required:
            word, color = "note", "yellow"
        console.print(Text.assemble((f"{word:>4}", color), f"  {check.name}: {visible(check.found)}"))
        if check.ok is not True and check.consequence:
            console.print(Text(f"      prevents: {visible(check.consequence)}"))
        if check.ok is not True and check.remedy:
            console.print(Text(f"      type:     {visible(check.remedy)}", style="bold"))
    if result.hooks:
        table = Table("fact", "provider", "exact", box=None, pad_edge=False, padding=(0, 3, 0, 0))
        others = Table("fact", "other provider", "why not", box=None, pad_edge=False, padding=(0, 3, 0, 0))
        remarks = []
        for hook in result.hooks:
            exact = "exact" if hook.exact else "estimated" if hook.provider else "missing"
            table.add_row(hook.fact, hook.provider or "-", exact)
            for provider, reason in hook.providers:
                if provider.name != hook.provider:
                    others.add_row(hook.fact, provider.name, visible(reason or "not needed"))
            if hook.reason:
                remarks.append(f"{hook.fact}: {visible(hook.reason)}")
        console.print()
        console.print(table)
        for line in remarks:
            console.print(Text(line))
        console.print()
        console.print(others)
    console.print()
    if result.ready:
        console.print(Text(f"This host can record: sudo {visible(invocation.command())} record"))
    else:
        first = next(check for check in result.checks if check.required and check.ok is False)
        console.print(Text(f"This host cannot record: {visible(first.name)}, {visible(first.found)}"))
    return code
