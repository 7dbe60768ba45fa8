"""tcptrace doctor."""

import json
import sys

import click

from tcptrace import invocation
from tcptrace.cli import CONTEXT
from tcptrace.errors import EXIT_HOST, EXIT_OK
from tcptrace.output.escape import visible


@click.command("doctor", context_settings=CONTEXT)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(as_json: bool) -> int:
    """Say whether this host can record, and what it can measure.

    Each requirement is checked by itself: privileges, BTF, libbpf 1.x, the eBPF programs, lockdown, tracefs.
    Then the programs are really loaded and attached for a moment, because kernels differ in what they allow.
    For each measured fact the hook in use is printed, whether it is exact, and why it is missing where it is;
    for each failed check what that prevents and the next command to type.

    Run it as root; without privileges the trial is left out.

    \b
    Exit status: 0 when this host can record, 3 when it cannot.
    """
    from tcptrace.acquire.preflight import preflight

    result = preflight()
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
        missing = []
        for hook in result.hooks:
            exact = "exact" if hook.exact else "estimated" if hook.provider else "missing"
            table.add_row(hook.fact, hook.provider or "-", exact)
            if hook.reason:
                missing.append(f"{hook.fact}: {visible(hook.reason)}")
        console.print()
        console.print(table)
        for line in missing:
            console.print(Text(line))
    console.print()
    if result.ready:
        console.print(Text(f"This host can record: sudo {visible(invocation.command())} record"))
    else:
        first = next(check for check in result.checks if check.required and check.ok is False)
        console.print(Text(f"This host cannot record: {visible(first.name)}, {visible(first.found)}"))
    return code
