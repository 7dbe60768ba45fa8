"""kernels.toml, and the way from an entry to packages: what apt prints is read as it must be."""

from pathlib import Path

import pytest

import matrix_kernels
import matrix_packages
from matrix_kernels import Kernel, MatrixError, choose, load
from matrix_packages import DEBIAN, SECURITY, Package, Source, mirror, parts_of, read_sources

GOOD = """
[[kernel]]
name = "6.1"
suites = ["bookworm", "bookworm-security"]
package = "linux-image-cloud-amd64"
may_lack = ["fentry", "tp:sk_data_ready"]
"""


def test_the_file_of_the_project_is_valid_and_reaches_from_5_10_to_the_newest() -> None:
    names = [kernel.name for kernel in load()]
    assert len(names) >= 4 and names[0] == "5.10" and names[-1] == "newest"


def test_an_entry_says_where_a_kernel_comes_from_and_what_it_may_lack(tmp_path: Path) -> None:
    file = tmp_path / "kernels.toml"
    file.write_text(GOOD)
    assert load(file) == [
        Kernel(
            "6.1",
            ("bookworm", "bookworm-security"),
            "linux-image-cloud-amd64",
            ("fentry", "tp:sk_data_ready"),
        )
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no [[kernel]]"),
        ("[[kernel]", "kernels.toml"),
        (GOOD + "[other]\n", "other"),
        (GOOD + GOOD, "two kernels are named 6.1"),
        (GOOD.replace('name = "6.1"\n', ""), "without name"),
        (GOOD.replace("6.1", "6.1; reboot"), "'6.1; reboot' is no name"),
        (GOOD.replace('["bookworm", "bookworm-security"]', "[]"), "no suite"),
        (GOOD.replace('["bookworm", "bookworm-security"]', '"bookworm"'), "suites is 'bookworm'"),
        (GOOD.replace("fentry", "luck"), "may_lack has 'luck'"),
        (GOOD + "flavour = 1\n", "unknown: flavour"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "kernels.toml"
    file.write_text(text)
    with pytest.raises(MatrixError) as error:
        load(file)
    assert named in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_kernels_are_chosen_by_name_in_the_order_of_the_file() -> None:
    kernels = [Kernel(name, ("sid",), "linux", ()) for name in ("5.10", "6.1", "6.12")]
    assert [one.name for one in choose(kernels, ["6.12", "5.10"])] == ["5.10", "6.12"]
    assert choose(kernels, []) == kernels
    with pytest.raises(MatrixError, match=r"'7\.0'; there are: 5\.10, 6\.1, 6\.12"):
        choose(kernels, ["7.0"])


WHOLE = {
    "linux-image-cloud-amd64": "Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n",
    "linux-image-6.1.0-56-cloud-amd64": "Depends: kmod, linux-base (>= 4.3~), initramfs-tools | dracut\n",
}
PARTS = {
    "linux-image-cloud-amd64": "Depends: linux-base-cloud-amd64 (= 7.3.4-1~bpo13+1), "
    "linux-image-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1)\n",
    "linux-image-7.3.4+deb13-cloud-amd64": "Depends: dracut | initramfs-tools (>= 0.120), "
    "linux-binary-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1), "
    "linux-modules-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1)\n",
    "linux-binary-7.3.4+deb13-cloud-amd64": "Depends: "
    "linux-base-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1)\n",
    "linux-modules-7.3.4+deb13-cloud-amd64": "Depends: kmod\n",
    "linux-base-7.3.4+deb13-cloud-amd64": "Version: 7.3.4-1~bpo13+1\n",
}


def test_a_metapackage_leads_to_its_image_in_an_exact_version() -> None:
    assert parts_of("linux-image-cloud-amd64", WHOLE.__getitem__) == [
        Package("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2")
    ]


def test_a_kernel_in_several_packages_is_taken_whole_its_image_first() -> None:
    found = parts_of("linux-image-cloud-amd64", PARTS.__getitem__)
    assert [part.name.split("-")[1] for part in found] == ["image", "binary", "modules", "base"]
    assert {part.version for part in found} == {"7.3.4-1~bpo13+1"}


def test_a_metapackage_without_an_image_is_an_error() -> None:
    with pytest.raises(MatrixError, match="linux-image-cloud-amd64"):
        parts_of("linux-image-cloud-amd64", lambda name: "Depends: libc6 (= 2.36)\n")


DEB822 = """\
Types: deb
# a comment
URIs: http://mirror.test/debian/
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
Enabled: no
URIs: http://off.test/debian
Suites: bookworm
Components: main

Types: deb deb-src
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
# deb http://off.test/debian bookworm main
deb-src http://mirror.test/debian bookworm main
deb [signed-by=/k.gpg arch=amd64] http://mirror.test/debian bookworm main contrib # here
"""


def test_sources_are_read_in_both_formats() -> None:
    assert read_sources(DEB822) == [
        Source("http://mirror.test/debian", "bookworm", ("main", "contrib")),
        Source("http://mirror.test/debian", "bookworm-updates", ("main", "contrib")),
        Source("http://mirror.test/debian-security", "bookworm-security", ("main",)),
    ]
    assert read_sources(ONE_LINE) == [Source("http://mirror.test/debian", "bookworm", ("main", "contrib"))]


def test_suites_come_from_the_mirrors_that_the_machine_uses() -> None:
    others = Source("http://tools.test/apt", "bookworm", ("main",))
    sources = [others, *read_sources(DEB822)]
    assert mirror("trixie-backports", sources) == "http://mirror.test/debian"
    assert mirror("bullseye-security", sources) == "http://mirror.test/debian-security"


def test_without_sources_of_debian_its_own_mirrors_are_asked() -> None:
    ubuntu = Source("http://archive.test/ubuntu", "noble", ("main",))
    assert (mirror("sid", [ubuntu]), mirror("bullseye-security", [])) == (DEBIAN, SECURITY)


def test_kernels_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert matrix_packages.cache() == tmp_path / "tcptrace"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert matrix_packages.cache() == Path.home() / ".cache/tcptrace"


def test_capabilities_are_those_that_kernel_tests_know() -> None:
    said = Path(__file__).parents[1].joinpath("kernel/lacking.py").read_text()
    assert all(capability in said for capability in matrix_kernels.CAPABILITIES)
