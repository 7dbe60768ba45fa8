"""What of the VM lab can be checked without a virtual machine."""

import importlib.util
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

VAGRANT = Path(__file__).resolve().parents[2] / "vagrant"


def module(name: str) -> ModuleType:
    """A Python file of vagrant/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, VAGRANT / f"{name}.py")
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def run(directory: Path, *arguments: str, **commands: str) -> subprocess.CompletedProcess[str]:
    """vagrant/run in a directory, with these shell scripts in the place of commands."""
    tools = directory / "tools"
    tools.mkdir(exist_ok=True)
    for name, script in commands.items():
        tool = tools / name
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    return subprocess.run(
        [VAGRANT / "run", *arguments],
        cwd=directory,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(autouse=True)
def _installed() -> None:
    if not (VAGRANT.parent / ".venv/bin/tcptrace").exists():
        pytest.skip("no .venv in this checkout; `make setup` makes it")


def test_run_refuses_an_unknown_scenario_by_its_name(tmp_path: Path) -> None:
    done = run(tmp_path, "nagel")
    assert done.returncode == 2
    assert done.stderr == "run: there is no scenario 'nagel': `tcptrace lab list` names them\n"


def test_run_says_where_a_scenario_plays_that_needs_the_relay(tmp_path: Path) -> None:
    done = run(tmp_path, "syn-loss")
    assert done.returncode == 2
    assert done.stderr == (
        "run: syn-loss plays only between namespaces of one host: sudo tcptrace lab run syn-loss\n"
    )


@pytest.mark.parametrize("arguments", [[], ["nagle", "handshake"], ["--what"], ["nagle", "-o"]])
def test_run_says_how_it_is_used(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: vagrant/run SCENARIO")


def test_run_never_replaces_a_file_unasked(tmp_path: Path) -> None:
    (tmp_path / "nagle.html").write_text("mine")
    done = run(tmp_path, "nagle")
    assert done.returncode == 1
    assert "nagle.html exists" in done.stderr
    assert "--force" in done.stderr


def test_run_says_what_to_type_when_a_machine_is_down(tmp_path: Path) -> None:
    down = 'case $2 in client) echo "Host client" ;; *) echo "not yet ready for SSH" >&2; exit 1 ;; esac'
    done = run(tmp_path, "nagle", vagrant=down)
    assert done.returncode == 1
    assert "not yet ready for SSH" in done.stderr
    assert f"the machine router is not up; type: cd {VAGRANT} && vagrant up router" in done.stderr


def test_run_says_what_to_type_when_tcptrace_is_missing_in_a_machine(tmp_path: Path) -> None:
    done = run(tmp_path, "nagle", vagrant='echo "Host $2"', ssh="exit 1")
    assert done.returncode == 1
    assert "tcptrace is not installed in client" in done.stderr
    assert "vagrant/prepare && vagrant provision" in done.stderr


def test_run_says_why_the_part_that_failed_first_failed(tmp_path: Path) -> None:
    """The other part only knows that its partner is gone."""
    ssh = """
        case "$*" in
        *mktemp*) mktemp -d ;;
        *"role client"*) sleep 30 ;;
        *"role server"*) echo "no BTF here" >&2; exit 3 ;;
        esac
    """
    done = run(tmp_path, "nagle", vagrant='echo "Host $2"', ssh=ssh)
    assert done.returncode == 1
    assert "no BTF here\nrun: nagle failed on the server" in done.stderr
    assert not list(tmp_path.glob("nagle*"))


def test_provision_says_what_is_missing() -> None:
    done = subprocess.run(
        [VAGRANT / "provision", "install"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "provision: /tmp/tcptrace-guest.tar is missing; on the host: vagrant/prepare"
    )


def test_both_netems_of_the_router_make_the_way_there_and_back() -> None:
    measured = module("measured")
    netem = "qdisc netem 8001: dev eth1 root refcnt 2 limit 100000 delay 10ms\n"
    other = "qdisc noqueue 0: dev lo root refcnt 2\n"
    assert measured.netem_ns(other + netem + netem.replace("10ms", "2.5ms")) == 12_500_000
    assert measured.netem_ns(other) == 0


def test_ping_counts_by_its_median() -> None:
    measured = module("measured")
    line = "64 bytes from 10.77.2.10: icmp_seq=1 ttl=63 time={} ms\n"
    assert measured.ping_ns("".join(map(line.format, ("20.5", "90.0", "20.1")))) == 20_500_000
    assert measured.ping_ns("3 packets transmitted, 0 received") is None


def test_the_network_is_shown_for_exchanges_that_both_ends_recorded() -> None:
    measured = module("measured")
    exact = {"network_exact": True, "network_ns": 20_400_000, "total_ns": 21_000_000, "nagle_ns": None}
    guess = {"network_exact": False, "network_ns": 90_000_000, "total_ns": 90_000_000, "nagle_ns": None}
    line = measured.lines({7001: [exact, guess]}, 20_000_000)[1].split("  ")
    assert [word.strip() for word in line if word] == ["7001", "2", "1", "55.5 ms", "–", "20.4 ms", "+2.0 %"]


def test_a_bootable_disk_keeps_its_partition_table() -> None:
    bootable = module("bootable")
    old = bytes(range(256)) * 2
    sector = bootable.boot_sector(bytes(512), old)
    assert sector[0x1B8:] == old[0x1B8:]
    assert struct.unpack_from("<Q", sector, 0x5C) == (2048,)


def test_a_core_image_knows_where_its_rest_lies() -> None:
    bootable = module("bootable")
    image = bootable.core_image(bytes(3 * 512 + 1))
    assert len(image) == 4 * 512
    assert struct.unpack_from("<QHH", image, 500) == (2049, 3, 0x820)
    with pytest.raises(ValueError, match="1 sectors"):
        bootable.core_image(bytes(12))


def test_every_python_file_of_the_lab_starts_from_anywhere() -> None:
    done = subprocess.run(
        [sys.executable, VAGRANT / "bootable.py"], cwd="/", capture_output=True, text=True, check=False
    )
    assert "ModuleNotFoundError" not in done.stderr
