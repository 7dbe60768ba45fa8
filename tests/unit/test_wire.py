"""The generated layout is that of the header, and what other modules take for granted about it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tcptrace.trace import wire

ROOT = Path(__file__).resolve().parents[2]
TOOLS = "/usr/bin:/usr/sbin:/bin:/sbin"
DTYPES = {name: value for name, value in vars(wire).items() if isinstance(value, np.dtype)}


@pytest.mark.skipif(
    not all(shutil.which(tool, path=TOOLS) for tool in ("clang", "bpftool")), reason="needs clang and bpftool"
)
def test_the_committed_layout_is_that_of_the_header() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "generate-wire"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", DTYPES)
def test_fields_tile_the_record_without_a_gap(name: str) -> None:
    dtype = DTYPES[name]
    end = 0
    for field in dtype.names or ():
        base, offset = dtype.fields[field][:2]  # type: ignore[index]
        assert offset == end, field
        end += base.itemsize
    assert end == dtype.itemsize


def test_records_and_their_header_tile_a_ring() -> None:
    assert wire.CONNECTION.itemsize + 8 == 512
    assert wire.EVENT.itemsize + 8 == 128
    assert (wire.CONNECTION.names or ())[0] == (wire.EVENT.names or ())[0] == "kind"


def test_enums_drop_their_prefix() -> None:
    assert wire.Kind.CONNECTION == 1
    assert wire.CloseReason.RESET_SENT == 2
    assert wire.Counter.LOST_CONNECTION_RING == 0
    assert len(wire.Counter) - 1 == wire.Counter.COUNTERS
