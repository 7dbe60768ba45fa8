"""Certificates of the scenarios of TLS."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tcptrace.errors import HostError
from tcptrace.lab import tls


def test_without_openssl_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError, match="apt install openssl"):
        tls.server_context("1.3")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_key_and_certificate_do_not_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tls.server_context("1.2")
    assert not list(tmp_path.iterdir())


def test_an_openssl_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "openssl"
    fake.write_text("#!/bin/sh\necho 'no curve of that name' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="no curve of that name"):
        tls.server_context("1.2")
