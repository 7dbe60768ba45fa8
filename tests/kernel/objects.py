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


def refused_object(folder: Path, *programs: str, condition: str = "1") -> Path:
    """The object in which the verifier must refuse these programs, where a condition in C holds."""
    source = resources.bpf_source_dir()
    texts = {path.name: path.read_text() for path in (source / "lifecycle.bpf.c", *source.glob("*.h"))}
    heads = {program: f"TT_TRACEPOINT({program})\n{{" for program in programs}
    heads |= {"walk": "int walk(struct bpf_iter__tcp *ctx)\n{"}
    for program in programs:
        # a read beside the pointer that the hook gives
        pointer = "(long)ctx->sk_common" if program == "walk" else "TT_ARG(0, long)"
        fault = f"\n\tif ({condition} && *(volatile long *)({pointer} + 1))\n\t\treturn 0;"
        (name,) = [name for name, text in texts.items() if heads[program] in text]
        texts[name] = texts[name].replace(heads[program], heads[program] + fault)
    for name, text in texts.items():
        (folder / name).write_text(text)  # a source's own folder is searched for headers first
    return compile_object(texts["lifecycle.bpf.c"], folder)
