"""What lies outside the package is found from a checkout and from an installed wheel."""

import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tcptrace import resources
from tcptrace.errors import HostError, TcptraceError

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("lifecycle", "plain")
"""Sources of objects: bpf/NAME.bpf.c."""
OBJECTS = sorted((ROOT / "build" / "x86_64").glob("*.bpf.o"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout: setuptools leaves its traces in build/."""
    source = tmp_path_factory.mktemp("source")
    for name in ("tcptrace", "bpf", "reports", "LICENSES", "build/x86_64"):
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = source / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    for name in ("pyproject.toml", "setup.py", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    if not OBJECTS:  # where eBPF cannot be compiled, packaging is tested all the same
        (source / "build" / "x86_64").mkdir(parents=True)
        for name in NAMES:
            (source / "build" / "x86_64" / f"{name}.bpf.o").write_bytes(b"no program: " + name.encode())
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        target,
        source,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (built,) = target.glob("*.whl")
    return built


def test_checkout_finds_sources_and_pages() -> None:
    assert resources.bpf_source_dir() == ROOT / "bpf"
    assert resources.reports_dir() == ROOT / "reports"


@pytest.mark.skipif(not OBJECTS, reason="no compiled eBPF programs: run `make setup`")
def test_checkout_finds_the_compiled_object() -> None:
    assert {path.name for path in OBJECTS} == {f"{name}.bpf.o" for name in NAMES}
    for path in OBJECTS:
        assert resources.bpf_object(path.name.removesuffix(".bpf.o")) == path


def test_every_source_of_programs_has_an_object() -> None:
    assert {path.name for path in (ROOT / "bpf").glob("*.bpf.c")} == {f"{name}.bpf.c" for name in NAMES}


def test_an_object_older_than_its_sources_is_refused(tmp_path: Path) -> None:
    """It would be loaded and record nothing, or nonsense."""
    built = tmp_path / "build" / platform.machine() / "lifecycle.bpf.o"
    source, other = tmp_path / "bpf" / "state.h", tmp_path / "bpf" / "unused.h"
    for path in (built, source, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        os.utime(path, (1000, 1000))
    rule = "build/lifecycle.bpf.o: bpf/gone.h \\\n  bpf/state.h\nbpf/state.h:\n"
    (tmp_path / "build" / "lifecycle.bpf.d").write_text(rule)
    os.utime(other, (2000, 2000))
    package = tmp_path / "tcptrace"
    assert resources.bpf_object("lifecycle", package=package) == built
    os.utime(source, (1001, 1001))
    with pytest.raises(HostError, match=r"older than bpf/state\.h: run `make bpf`"):
        resources.bpf_object("lifecycle", package=package)
    os.utime(built, (1001, 1001))
    assert resources.bpf_object("lifecycle", package=package) == built


def test_an_object_that_was_not_built_is_a_host_error_that_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="make setup"):
        resources.bpf_object("lifecycle", package=tmp_path / "tcptrace")


def test_a_wheel_for_another_architecture_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tcptrace" / "_bpf" / "x86_64").mkdir(parents=True)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(HostError, match="riscv64"):
        resources.bpf_object("lifecycle", package=tmp_path / "tcptrace")


def test_missing_pages_are_named(tmp_path: Path) -> None:
    with pytest.raises(TcptraceError, match="report's pages are missing"):
        resources.reports_dir(package=tmp_path / "tcptrace")


def test_wheel_is_tagged_for_linux_on_its_architecture(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-linux_x86_64.whl")


def test_wheel_carries_objects_sources_pages_and_licences(wheel: Path, source: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"tcptrace/_bpf/x86_64/{name}.bpf.o" for name in NAMES}
    expected |= {f"tcptrace/_bpf/src/{path.name}" for path in source.glob("bpf/*.[ch]")}
    reports = source / "reports"
    pages = [path.relative_to(reports) for path in reports.rglob("*") if path.is_file()]
    expected |= {f"tcptrace/_reports/{page}" for page in pages}
    assert len(expected) >= 3
    assert expected <= names
    assert {"tcptrace/py.typed", "tcptrace/__init__.py"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "build/")) for name in names)


def test_installed_wheel_finds_its_own_files(wheel: Path, source: Path, tmp_path: Path) -> None:
    """Installed where no checkout is near; dependencies come from the environment that runs the test."""
    compiled = [source / "build" / "x86_64" / f"{name}.bpf.o" for name in NAMES]
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        site,
        wheel,
    ]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from tcptrace import resources\n"
        f"print(*map(resources.bpf_object, {NAMES!r}),"
        " resources.bpf_source_dir(), resources.reports_dir(), sep='\\n')"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    found = [Path(line) for line in result.stdout.splitlines()]
    package = site / "tcptrace"
    assert found == [
        *(package / "_bpf" / "x86_64" / path.name for path in compiled),
        package / "_bpf" / "src",
        package / "_reports",
    ]
    for path, original in zip(found, compiled, strict=False):
        assert path.read_bytes() == original.read_bytes()
