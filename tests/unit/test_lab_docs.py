"""docs/lab.md shows the scenarios as they are, and an example that is one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tcptrace.lab.scenario import Scenario

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_scenarios_is_current() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "generate-lab-table"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_example_is_a_scenario() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "lab.md").read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(source, found)
    one = found["SCENARIO"]
    assert isinstance(one, Scenario)
    assert f"lab verify {one.name}" in (ROOT / "docs" / "lab.md").read_text()
