"""Variants of the eBPF object, compiled for one test."""

import subprocess
from pathlib import Path

from tcptrace import resources

_INCLUDE = "/usr/include/x86_64-linux-gnu"


def compile_object(text: str, folder: Path, *flags: str) -> Path:
    """The object of an altered lifecycle.bpf.c, with further compiler flags."""
    altered, object_ = folder / "lifecycle.bpf.c", folder / "lifecycle.bpf.o"
    altered.write_text(text)
    command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-D__TARGET_ARCH_x86"]
    command += [f"-I{_INCLUDE}", f"-I{resources.bpf_source_dir()}", *flags]
    subprocess.run([*command, "-c", str(altered), "-o", str(object_)], check=True)
    return object_


def lifecycle_source() -> str:
    return (resources.bpf_source_dir() / "lifecycle.bpf.c").read_text()
