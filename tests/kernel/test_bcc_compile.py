"""The same sources under BCC: every one compiles on this host and passes its verifier.

Values are not judged: the headers may be those of another kernel than the running one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import require
from tcptrace import resources
from tcptrace.trace import wire

SOURCES = ["lifecycle.bpf.c"]  # plain.bpf.c includes it for the other loader
SCRIPT = Path(__file__).with_name("bcc_load.py")
PACKAGES = "/usr/lib/python3/dist-packages"
HEADERS = Path("/usr/src")
LIMIT_SECONDS = 100
"""Far above the 6 s of a quiet machine."""


def flattened(name: str) -> str:
    """A source with its local headers in place, because BCC rewrites the main file only."""
    directory = resources.bpf_source_dir()
    seen = {"kernel.h"}  # the kernel's types for CO-RE; BCC has the kernel's own headers

    def text(name: str) -> str:
        seen.add(name)
        out = []
        for line in (directory / name).read_text().splitlines():
            include = re.match(r'#include "(.+)"', line)
            if include is None:
                out.append(line)
            elif include[1] not in seen:
                out.append(text(include[1]))
        return "\n".join(out)

    return text(name)


def flags(switch: int) -> list[str]:
    """Compiler flags for a configuration with every switch of struct tt_config off or on."""
    values = {"ring_pages": 64}
    for name in wire.CONFIG.names or ():
        if not name.startswith("pad"):
            shape = wire.CONFIG[name].shape
            values |= {f"{name}{i}": switch for i in range(shape[0])} if shape else {name: switch}
    values["cpus"] = os.cpu_count() or 1
    return ["-DTT_BCC", "-Wno-everything", *(f"-DTT_CONFIG_{name}={value}" for name, value in values.items())]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What BCC needs in order to find kernel headers: those of the running kernel, or else Debian's."""
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({PACKAGES!r}); from bcc import BPF"],
        capture_output=True,
        check=False,
    )
    require(found.returncode == 0, "no BCC: apt install python3-bpfcc")
    if Path("/lib/modules", os.uname().release, "build").exists():
        return dict(os.environ)
    split = sorted(HEADERS.glob("linux-headers-*-amd64"))
    require(bool(split), "no kernel headers: apt install linux-headers-amd64")
    own = split[-1]
    common = own.with_name(own.name.removesuffix("amd64") + "common")
    # Debian splits them in two trees, and BCC knows only one.
    merged = tmp_path_factory.mktemp("headers")
    for tree, force in ((common, ""), (own, "f")):
        for part in ("include", "arch"):
            subprocess.run(["cp", f"-rs{force}", tree / part, merged], check=True)
    return {**os.environ, "BCC_KERNEL_SOURCE": str(merged)}


@pytest.mark.parametrize("switch", [0, 1], ids=["all off", "all on"])
@pytest.mark.parametrize("source", SOURCES)
def test_compiles_and_passes_the_verifier(
    environment: dict[str, str], tmp_path: Path, source: str, switch: int
) -> None:
    flat = tmp_path / source
    flat.write_text(flattened(source))
    declared = re.findall(r"^TT_TRACEPOINT\((\w+)\)", flat.read_text(), re.MULTILINE)
    assert len(declared) >= 7
    done = subprocess.run(
        [sys.executable, SCRIPT, flat, *flags(switch)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split() == declared


def test_what_is_not_portable_fails(environment: dict[str, str], tmp_path: Path) -> None:
    """The test above sees it when a program is refused."""
    flat = tmp_path / "refused.c"
    flat.write_text(
        flattened(SOURCES[0]).replace(
            "TT_TRACEPOINT(tcp_receive_reset)\n{",
            "TT_TRACEPOINT(tcp_receive_reset)\n{\n\treturn *(int *)TT_ARG(0, long);",
        )
    )
    done = subprocess.run(
        [sys.executable, SCRIPT, flat, *flags(0)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
        env=environment,
    )
    assert done.returncode != 0
    assert "tcp_receive_reset" in done.stderr
    assert "tcp_receive_reset" not in done.stdout.split()
