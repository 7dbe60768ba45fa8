"""What a guest boots: an unpacked Debian kernel, and an initramfs that is made for it in memory."""

from __future__ import annotations

import lzma
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matrix_kernels import MatrixError

BUSYBOX = Path("/bin/busybox")
NEEDED_TO_BOOT = ("virtio_pci", "virtio_console", "virtiofs", "overlay")
OUTPUT, STATUS = "/dev/vport0p1", "/dev/vport0p2"
"""The guest's ends of the two ports: what the command prints, and `started` and then its exit code."""


@dataclass(frozen=True)
class Share:
    """A directory of the host that guests see at the same place; the host's root is shared anyway."""

    tag: str
    path: Path


class Image:
    """A kernel as its packages unpack it.

    Raises:
        MatrixError: something of it is missing; names the directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        try:
            self.modules = next(self.root.glob("lib/modules/[0-9]*"))
            found = (*self.root.glob("boot/vmlinuz*"), *self.modules.glob("vmlinuz"))
            self.vmlinuz = found[0]
            self._dependencies = _dependencies((self.modules / "modules.dep").read_text())
            self._builtin = {_name(line) for line in (self.modules / "modules.builtin").read_text().split()}
        except (StopIteration, IndexError, OSError) as error:
            why = str(error) or "nothing found"
            raise MatrixError(f"{root} is no unpacked kernel with modules: {why}") from None
        self.release = self.modules.name

    def load_order(self, names: Sequence[str]) -> list[Path]:
        """The files of modules and of all they need, in an order in which each can be loaded."""
        order: list[str] = []
        for name in names:
            if name in self._builtin:
                continue
            path = next((path for path in self._dependencies if _name(path) == name), None)
            if path is None:
                raise MatrixError(f"kernel {self.release} has no module {name}, so it boots in no guest here")
            order += [*reversed(self._dependencies[path]), path]
        return [self.modules / path for path in dict.fromkeys(order)]


def _name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _dependencies(text: str) -> dict[str, list[str]]:
    """modules.dep: a module's path -> those it needs, the last of them to be loaded first."""
    lines = (line.partition(":") for line in text.splitlines())
    return {path: needs.split() for path, _, needs in lines}


def initramfs(
    image: Image, command: Sequence[str], directory: Path, environment: Mapping[str, str], share: Share | None
) -> bytes:
    """A cpio archive (format newc) that mounts the host's root and runs a command in it as root."""
    if not BUSYBOX.exists():
        raise MatrixError(f"no {BUSYBOX}, which starts guests: apt install busybox-static")
    archive = _Cpio()
    for name in ("bin", "proc", "sys", "dev", "host", "changes", "root", "modules"):
        archive.add(name, 0o040755)
    archive.add("bin/busybox", 0o100755, BUSYBOX.read_bytes())
    names = []
    for path in image.load_order(NEEDED_TO_BOOT):
        names.append(path.name.partition(".ko")[0])
        archive.add(f"modules/{names[-1]}.ko", 0o100644, _plain(path))
    archive.add("init", 0o100755, _init(image, names, share).encode())
    archive.add("start", 0o100755, _start(command, directory, environment).encode())
    return archive.finish()


def _plain(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".ko":
        return data
    raise MatrixError(f"{path} is compressed in a way that is not known here")


def _init(image: Image, modules: Sequence[str], share: Share | None) -> str:
    """The first program: mounts everything and hands over to `start` within the host's file system.

    The guest's root is the host's, read-only, under a tmpfs that takes all changes.
    """
    inside = shlex.quote(f"/root{image.modules}")
    target = shlex.quote(f"/root/usr/lib/modules/{image.release}")
    shared = shlex.quote(f"/root{share.path}") if share else ""
    writable = f"mkdir -p {shared} && mount -t virtiofs {share.tag} {shared} || fail share" if share else ":"
    return f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
fail() {{ echo "guest: cannot mount: $*"; poweroff -f; }}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in {" ".join(modules)}; do insmod /modules/$module.ko || echo "guest: cannot load $module"; done
mount -t virtiofs -o ro root /host || fail root
mount -t tmpfs -o size=75%,mode=755 changes /changes
mkdir /changes/upper /changes/work
mount -t overlay -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work overlay /root || fail overlay
for place in proc sys dev; do mount --move /$place /root/$place; done
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs tmpfs /root/dev/shm
mount -t tmpfs -o mode=755 run /root/run
mount -t tracefs tracefs /root/sys/kernel/tracing
mount -t debugfs debugfs /root/sys/kernel/debug
mount -t bpf bpf /root/sys/fs/bpf
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
mount -t securityfs securityfs /root/sys/kernel/security
ln -s /proc/self/fd /root/dev/fd
ln -s fd/0 /root/dev/stdin
ln -s fd/1 /root/dev/stdout
ln -s fd/2 /root/dev/stderr
mkdir -p {target} && mount --bind {inside} {target} || fail modules
{writable}
mkdir /root/run/tmp /root/run/lock
cp /start /root/run/start
exec switch_root /root /bin/sh /run/start
"""


def _start(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> str:
    """The second program, PID 1 from then on: runs the command, says how it ended, and waits to be killed."""
    settings = {
        "HOME": "/root",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TMPDIR": "/run/tmp",
        **environment,
    }
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in settings.items())
    return f"""{exports}
/sbin/ip link set lo up
for module in tun veth; do /sbin/modprobe $module; done
exec 3>{STATUS}
echo started >&3
mkfifo /run/output
cat </run/output >{OUTPUT} &
reader=$!
(cd {shlex.quote(str(directory))} && exec {shlex.join(command)}) </dev/null >/run/output 2>&1 3>&-
code=$?
tries=0
while kill -0 $reader 2>/dev/null && [ $tries -lt 50 ]; do tries=$((tries + 1)); sleep 0.1; done
echo $code >&3
while :; do sleep 60; done
"""


class _Cpio:
    """The format in which a kernel takes its first file system (initramfs-buffer-format.rst)."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._files = 0

    def add(self, name: str, mode: int, data: bytes = b"") -> None:
        self._files += 1
        fields = (self._files, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields)
        self._data += name.encode() + b"\0"
        self._pad()
        self._data += data
        self._pad()

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self._data)

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)
