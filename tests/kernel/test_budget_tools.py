"""The turns of real servers against the latency that their load tools tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from conftest import require
from latency import Comparison
from recording import Recording
from services import missing
from tools import sql, web


@pytest.mark.parametrize("comparisons", [web, sql], ids=["nginx", "postgresql"])
def test_turns_take_as_long_as_the_load_tool_says(
    comparisons: Callable[..., Iterator[Comparison]], record: Callable[..., Recording]
) -> None:
    require(not missing(), missing())
    found = list(comparisons(record))
    assert found
    assert not [one.failure for one in found if one.failure]
