"""`make demo`: record real connections between network namespaces and report them.

    python -m tcptrace.lab.demo DIRECTORY       # as root; takes a few seconds

A shop talks to its store over a veth; a cafe talks to a cloud over a link that takes 10 ms each way and
loses a few packets on purpose. The recording, the report and the summary are made by the commands that
a user would type; they are printed as they run.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from tcptrace.errors import EXIT_FAILURE, EXIT_INCOMPLETE, EXIT_OK, HostError, TcptraceError
from tcptrace.lab import namespaces
from tcptrace.lab.faults import Drop
from tcptrace.lab.link import Link
from tcptrace.lab.namespaces import Addresses, Namespace
from tcptrace.lab.recording import TCPTRACE, recording

LIMIT_SECONDS = 30.0

SHOP, STORE = Addresses("10.88.0.1", "fd88::1"), Addresses("10.88.0.2", "fd88::2")
CAFE, CLOUD = Addresses("10.89.0.1", "fd89::1"), Addresses("10.89.0.2", "fd89::2")
NOBODY, LOSSY_SYN, LOSSY_SYNACK, LOSSY_DATA = 81, 8441, 8442, 8443
LOSSES = (
    Drop("syn", nth=(1,), port=LOSSY_SYN, name="a flow's first SYN"),
    Drop("synack", nth=(1,), port=LOSSY_SYNACK, name="a flow's first SYN-ACK"),
    Drop("data", nth=(20, 21, 90), port=LOSSY_DATA, direction="ba", name="some of the answer"),
)

SHOP_CLIENTS = (  # process name, server, port, conversations (see tcptrace.lab.actors)
    ("order-gw", STORE.ipv4, 80, "get=40 bye=12"),
    ("mobile-app", STORE.ipv6, 80, "get=30 bye=8 stream=3"),
    ("checkout", STORE.ipv4, 80, "get=6 abort=5 reset=5 unread=4"),
    ("cron", STORE.ipv4, NOBODY, "refused=4"),
    ("cron", STORE.ipv6, NOBODY, "refused=2"),
)
CAFE_CLIENTS = (
    ("browser", CLOUD.ipv4, 443, "get=24 bye=6 stream=2"),
    ("tablet", CLOUD.ipv6, 443, "get=16 bye=4 abort=2"),
    ("sensor", CLOUD.ipv4, LOSSY_SYN, "get=2"),
    ("sensor", CLOUD.ipv6, LOSSY_SYNACK, "get=1"),
    ("backup", CLOUD.ipv4, LOSSY_DATA, "stream=2"),
)


def say(text: str) -> None:
    """Tell the user what happens."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


def start(space: Namespace, name: str, *arguments: object, ready: bool = False) -> subprocess.Popen[str]:
    """Start an actor in a namespace; wait for its `ready` if it says so."""
    words = [sys.executable, "-m", "tcptrace.lab.actors", name, *map(str, arguments)]
    # In a session of its own: Ctrl-C in the terminal is for us, and we end the actors in order.
    child = space.popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdout
    if ready and (not select.select([child.stdout], [], [], LIMIT_SECONDS)[0] or not child.stdout.readline()):
        raise TcptraceError(f"{name} did not start")
    return child


def play(path: Path) -> None:
    """Set everything up, record, and take everything down again."""
    with contextlib.ExitStack() as stack:
        shop, store = stack.enter_context(namespaces.pair(wired=False))
        namespaces.join(shop, store, side_a=SHOP, side_b=STORE)
        cafe, cloud = stack.enter_context(namespaces.pair(wired=False))
        link = Link(cafe, cloud, delay_ns=10_000_000, drops=LOSSES, side_a=CAFE, side_b=CLOUD)
        stack.enter_context(link)
        start(store, "web", "serve", 80, ready=True)
        start(cloud, "api", "serve", 443, LOSSY_SYN, LOSSY_SYNACK, LOSSY_DATA, ready=True)
        say(f"shop {shop.name} and store {store.name} over a veth")
        say(f"cafe {cafe.name} and cloud {cloud.name} over 10 ms each way")
        start(shop, "inventory", "call", STORE.ipv4, 80, "stay", ready=True)  # open before the recording
        spaces = [word for space in (shop, store, cafe, cloud) for word in ("--netns", space.name)]
        print("$", "tcptrace", "record", "-o", path, *spaces, file=sys.stderr, flush=True)
        with recording(path, spaces):
            start(cafe, "dashboard", "call", CLOUD.ipv4, 443, "stay", ready=True)  # and one at its end
            clients = [start(shop, *_call(client)) for client in SHOP_CLIENTS]
            clients += [start(cafe, *_call(client)) for client in CAFE_CLIENTS]
            for client in clients:  # clients go before servers, even in the middle of the play
                stack.callback(namespaces.stop, client)
            deadline = time.monotonic() + LIMIT_SECONDS
            for client in clients:
                if client.wait(max(0.1, deadline - time.monotonic())):
                    raise TcptraceError("a client failed, see above")
            time.sleep(0.2)  # the last closing packets are still on the link


def _call(client: tuple[str, str, int, str]) -> tuple[str, ...]:
    name, address, port, conversations = client
    return (name, "call", address, str(port), *conversations.split())


def show(*arguments: str) -> None:
    """Run a command of tcptrace as the user would."""
    print("\n$", "tcptrace", *arguments, file=sys.stderr, flush=True)
    status = subprocess.run([*TCPTRACE, *arguments], check=False).returncode
    if status not in (EXIT_OK, EXIT_INCOMPLETE):
        raise TcptraceError(f"tcptrace {arguments[0]} failed with {status}")


def main() -> int:
    """Exit code 0 when the trace and the report are there."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    trace, report = directory / "demo.tct", directory / "report.html"
    try:
        if os.geteuid() != 0:
            raise HostError("needs root, to make namespaces and to record: make demo uses sudo")
        directory.mkdir(exist_ok=True)
        play(trace)
        show("summary", str(trace))
        show("report", str(trace), "-o", str(report), "--force")
    except (TcptraceError, OSError, subprocess.SubprocessError) as error:
        say(str(error))
        return error.exit_code if isinstance(error, TcptraceError) else EXIT_FAILURE
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    print(f"\nThe recording is {trace}, its report {report}: open it in a browser.")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
