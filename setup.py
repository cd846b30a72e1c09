"""What pyproject.toml cannot say of the wheel and the source archive: their commit, and which Linux a wheel runs on."""

import re
import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
VERSION = runpy.run_path(str(ROOT / "common" / "command_line" / "version.py"))
COMMIT_NAME = VERSION["COMMIT_NAME"]

OF_GLIBC = {b"libc.so.6", b"libm.so.6", b"libpthread.so.0", b"libdl.so.2", b"librt.so.1", b"ld-linux-x86-64.so.2"}
OLDEST = 17
"""glibc 2.17 of 2012: manylinux promises nothing of older ones."""


def write_commit(folder: Path) -> None:
    """Write the commit of this checkout into `folder`, or the one that a source archive names; nothing if unknown."""
    written = ROOT / COMMIT_NAME
    commit = written.read_text(encoding="ascii").strip() if written.is_file() else VERSION["of_checkout"](ROOT)
    if commit:
        (folder / COMMIT_NAME).unlink(missing_ok=True)  # it may be a link to the checkout's
        (folder / COMMIT_NAME).write_text(f"{commit}\n", encoding="ascii")


def manylinux(libraries: list[Path]) -> str | None:
    """Return the manylinux platform that compiled files keep to; None where they need more than the C library.

    The names of the libraries that a file is linked with, and the versions of glibc whose symbols it uses, stand in
    its table of strings. Nothing here is compiled for a newer processor than any x86-64.
    """
    content = b"\0".join(path.read_bytes() for path in libraries)
    needed = set(re.findall(rb"\0(lib[\w.+-]+\.so[.\d]*)(?=\0)", content))
    if not libraries or needed - OF_GLIBC:
        return None
    versions = [tuple(map(int, v.split(b"."))) for v in re.findall(rb"\0GLIBC_([\d.]+)(?=\0)", content)]
    if any(major != 2 for major, *_ in versions):
        return None
    return f"manylinux_2_{max([OLDEST, *(minor for _, minor, *_ in versions)])}_x86_64"


class BuildPy(build_py):
    """Puts the commit beside the package; this file is no part of it."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        return [found for found in super().find_package_modules(package, package_dir) if found[1] != "setup"]

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # a checkout is asked each time
            write_commit(Path(self.build_lib, "epochal"))


class Sdist(sdist):
    """Puts the commit into the archive, where there is no git to ask any more."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_commit(Path(base_dir))


class BdistWheel(bdist_wheel):
    """Names the Linux that the wheel runs on as its compiled part has it."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        if platform == "linux_x86_64":
            platform = manylinux(sorted(Path(self.bdist_dir).rglob("*.so"))) or platform
        return python, abi, platform


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildPy, "sdist": Sdist, "bdist_wheel": BdistWheel})
