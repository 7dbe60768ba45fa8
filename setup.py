"""Put what lies outside the package into the wheel: eBPF objects, their sources, and the report's pages.

tcptrace/resources.py looks for them under the same names. An editable install needs none of this: there
they are found in the checkout.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


class BuildWithResources(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        objects = sorted((HERE / "build").glob("*/*.bpf.o"))
        if not objects:
            raise SystemExit("no compiled eBPF program under build/: run `make setup` first")
        package = Path(self.build_lib) / "tcptrace"
        for path in objects:
            self._copy(path, package / "_bpf" / path.parent.name / path.name)
        for path in sorted((HERE / "bpf").glob("*.[ch]")):
            self._copy(path, package / "_bpf" / "src" / path.name)
        for path in sorted((HERE / "reports").rglob("*")):
            if path.is_file():
                self._copy(path, package / "_reports" / path.relative_to(HERE / "reports"))

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


class LinuxWheel(bdist_wheel):
    """Any Python 3, but only the architecture that the eBPF objects were compiled for."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", "linux_x86_64"


setup(cmdclass={"build_py": BuildWithResources, "bdist_wheel": LinuxWheel})
