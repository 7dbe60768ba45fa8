"""The next command to type names this very installation, whatever PATH says."""

import subprocess
import sys
from pathlib import Path

import pytest

from tcptrace import invocation


@pytest.mark.parametrize(
    ("called", "typed"),
    [
        (".venv/bin/tcptrace", ".venv/bin/tcptrace"),
        ("/opt/my tools/bin/tcptrace", "'/opt/my tools/bin/tcptrace'"),
        ("/opt/lib/tcptrace/__main__.py", "PYTHON -m tcptrace"),
        ("tcptrace", "PYTHON -m tcptrace"),
        ("", "PYTHON -m tcptrace"),
    ],
)
def test_the_command_is_the_one_that_was_called(
    monkeypatch: pytest.MonkeyPatch, called: str, typed: str
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(sys, "executable", "/opt/a b/python")
    assert invocation.command() == typed.replace("PYTHON", "'/opt/a b/python'")
    assert invocation.install_report() == "'/opt/a b/python' -m pip install 'tcptrace[report]'"


def test_it_runs_as_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["elsewhere"])
    done = subprocess.run(f"{invocation.command()} --version", shell=True, cwd=tmp_path, text=True,
                          capture_output=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stdout[:9]) == (0, "tcptrace ")
