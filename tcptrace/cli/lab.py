"""tcptrace lab."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import click

from tcptrace.cli import CONTEXT
from tcptrace.cli.common import json_option, print_json
from tcptrace.errors import EXIT_OK, TcptraceError, UsageError
from tcptrace.output.escape import visible

_WIDTH = 100


@click.group("lab", context_settings=CONTEXT)
def command() -> None:
    """Problems of TCP to look at, with a truth to compare with: in network namespaces of their own, on this
    host, or between two machines.

    \b
    Examples:
      tcptrace lab list
      sudo tcptrace lab run nagle                         nagle.tct and nagle.html
      sudo tcptrace lab verify                            every scenario against its truth
      sudo tcptrace lab run nagle --role server           on one machine,
      sudo tcptrace lab run nagle --role client --peer 10.0.0.2     and on another
    """


@command.command("list", context_settings=CONTEXT)
@json_option
def list_(as_json: bool) -> int:
    """List the scenarios: what each teaches, and what lies between its client and its server."""
    from tcptrace.lab.play import why_not_apart
    from tcptrace.lab.scenario import scenarios

    found = scenarios()
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "chapter": one.chapter,
                    "title": one.title,
                    "teaches": one.teaches,
                    "link": one.topology.words(),
                    "checked": one.checks is not None,
                    "fast": one.fast,
                    "between_machines": not why_not_apart(one),
                }
                for one in found
            ]
        )
        return EXIT_OK
    width = max(len(one.name) for one in found)
    chapter = None
    for one in found:
        if one.chapter != chapter:
            print(f"{one.chapter}:" if chapter is None else f"\n{one.chapter}:")
            chapter = one.chapter
        print(f"  {one.name:{width}}  {one.title}{'' if one.checks else ' (no check)'}")
    return EXIT_OK


@command.command("run", context_settings=CONTEXT)
@click.argument("name", metavar="NAME")
@click.option(
    "-o",
    "--output",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Where the files go [the current directory].",
)
@click.option("--role", type=click.Choice(["server", "client"]), help="Play this part against a machine.")
@click.option("--peer", metavar="ADDR", help="The other machine; the client needs it.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
def run(name: str, directory: Path, role: str | None, peer: str | None, force: bool) -> int:
    """Play the scenario NAME and record it: NAME.tct, and its report NAME.html.

    With --role, one part is played against another machine, where the other part runs; each records its own
    end: NAME-server.tct, NAME-client.tct and NAME-truth.json. Start either first, they wait for each other.
    `tcptrace report NAME-client.tct NAME-server.tct` joins them. The data ports begin at 7001; the parts
    talk to each other on port 7000.

    \b
    Exit codes:
      0   played and recorded; the comparison with the truth is printed, `lab verify` judges it
      1   it failed
      2   wrong usage, such as a scenario that cannot be played between machines
      3   this host cannot: not root, or its kernel lacks what the scenario needs
    """
    from tcptrace.acquire.preflight import require_privileges
    from tcptrace.lab.play import why_not_apart
    from tcptrace.lab.scenario import scenario

    chosen = scenario(name)
    if role and (why := why_not_apart(chosen)):
        raise UsageError(f"{name} cannot be played between machines: {why}; run it without --role")
    if role is None and peer:
        raise UsageError("--peer is for --role client")
    if role == "client" and not peer:
        raise UsageError("--role client needs --peer ADDR, the machine of the server")
    if role == "server" and peer:
        raise UsageError("--role server takes no --peer: it waits for its client")
    require_privileges()
    suffixes = (
        (".tct", ".html") if role is None else ("-client.tct", "-truth.json") if peer else ("-server.tct",)
    )
    files = [directory / f"{name}{suffix}" for suffix in suffixes]
    for file in files:
        if file.exists() and not force:
            raise TcptraceError(f"{file} exists: give another directory with -o, or --force to replace it")
    directory.mkdir(parents=True, exist_ok=True)
    lesson = textwrap.fill(chosen.teaches, _WIDTH)
    _say(f"{chosen.title}\n\n{lesson}\n\nBetween client and server: {chosen.topology.words()}.\n")
    if role is None:
        return _here(name, *files)
    from tcptrace.lab.play import one_part

    one_part(chosen, role, peer or "", files[0], files[1] if peer else None, _tell)
    print(" ".join(map(str, files)))
    return EXIT_OK


def _here(name: str, trace: Path, page: Path) -> int:
    from tcptrace.lab.play import between_namespaces
    from tcptrace.lab.recording import TCPTRACE
    from tcptrace.lab.scenario import scenario
    from tcptrace.lab.verify import judge

    begin = time.monotonic()
    chosen = scenario(name)
    played = between_namespaces(chosen, trace, say=_tell)
    _table([judge(chosen, played, time.monotonic() - begin)])
    words = [*TCPTRACE, "report", str(trace), "-o", str(page), "--force"]
    return subprocess.run(words, check=False).returncode


@command.command("verify", context_settings=CONTEXT)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--fast", is_flag=True, help="Only the scenarios that take seconds on any machine.")
@click.option(
    "--slack",
    type=click.IntRange(1, 1000),
    default=1,
    metavar="N",
    help="For an emulated machine, say 20: multiply the absolute part of every bound, and play what breaks "
    "one once more.",
)
@json_option
def verify(names: tuple[str, ...], fast: bool, slack: int, as_json: bool) -> int:
    """Play scenarios and compare their recordings with the truth: each check with its bound.

    The truth is measured by the scenario itself: by its applications' clocks, by the link's log of packets,
    by the kernel's own counters. Nothing is kept. A scenario that nothing can be compared of says
    `no check`, which is no success.

    \b
    Exit codes:
      0   every check holds
      1   a bound is broken, a scenario failed, or nothing was checked
      2   wrong usage, such as an unknown scenario
      3   this host cannot play some of them; the others hold
    """
    from tcptrace.acquire.preflight import require_privileges
    from tcptrace.lab.scenario import scenario, scenarios
    from tcptrace.lab.verify import Outcome, exit_code, verify

    chosen = [scenario(name) for name in names] or scenarios()
    if fast:
        chosen = [one for one in chosen if one.fast]
    if not chosen:
        raise UsageError("none of these scenarios is a fast one: leave out --fast")
    require_privileges()
    outcomes: list[Outcome] = []
    for outcome in verify(chosen, slack):
        outcomes.append(outcome)
        lost = f", {outcome.lost} records lost" if outcome.lost else ""
        _say(f"{outcome.name}: {outcome.verdict} ({outcome.seconds:.1f} s{lost}{_first_run(outcome.first)})")
    if as_json:
        print_json([outcome.as_json(slack) for outcome in outcomes])
    else:
        _table(outcomes, slack)
    return exit_code(outcomes)


def _first_run(first: "Outcome | None") -> str:  # type: ignore[name-defined]  # noqa: F821
    if first is None:
        return ""
    lost = f" and lost {first.lost} records" if first.lost else ""
    return f"; played again, the first run broke {', '.join(first.broken)}{lost}"


def _table(outcomes: "list[Outcome]", slack: float = 1.0) -> None:  # type: ignore[name-defined]  # noqa: F821
    from tcptrace.lab.verify import lines
    from tcptrace.output.tables import Column, text_lines

    titles = ("scenario", "check", "truth", "measured", "error", "allowed", "verdict")
    rows = [[visible(cell) for cell in line] for outcome in outcomes for line in lines(outcome, slack)]
    columns = [
        Column(title, [row[number] for row in rows], right=title in ("truth", "measured", "error"))
        for number, title in enumerate(titles)
    ]
    for line in text_lines(columns):
        print(line)


def _say(text: str) -> None:
    print("\n".join(visible(line) for line in text.splitlines()), file=sys.stderr, flush=True)


def _tell(text: str) -> None:
    _say(text.rstrip("\n"))
