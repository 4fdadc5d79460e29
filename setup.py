"""Builds the one compiled part, ringq.native._ring. Everything else is in pyproject.toml."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("ringq/native")
SOURCES = sorted(str(path) for path in (Path(__file__).parent / NATIVE).glob("*.c"))
HEADERS = sorted(str(path) for path in (Path(__file__).parent / NATIVE).glob("*.h"))

WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-sign-conversion"]
COMPILE = ["-std=c11", "-O2", "-fvisibility=hidden", "-fstack-protector-strong", *WARNINGS]
LINK = ["-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"]


def refuse(line: str) -> None:
    """End the build with one line for the person who started it."""
    raise SystemExit(f"error: {line}")


def check_system() -> None:
    """What no compiler flag can make up for."""
    if not sys.platform.startswith("linux"):
        refuse(f"ringq runs on Linux only (futex, pidfd, eventfd); this is {sys.platform}")


class BuildRing(build_ext):
    """Asks the compiler what it can do before the first source file is given to it."""

    def build_extensions(self) -> None:
        """Choose the flags, then build as usual."""
        compiler = list(self.compiler.compiler_so)
        if not self.compiles(compiler, "int main(void) { return 0; }"):
            refuse(f"ringq needs a C compiler ({compiler[0]}): apt-get install build-essential (or gcc)")
        include = [f"-I{path}" for path in self.compiler.include_dirs]
        if not self.compiles([*compiler, *include], "#include <Python.h>"):
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            refuse(f"ringq needs Python's C headers (Python.h): apt-get install python{version}-dev")
        if not self.compiles([*compiler, "-std=c11"], "#include <linux/futex.h>\n#include <stdatomic.h>"):
            refuse("ringq needs the C library's headers: apt-get install build-essential (or gcc libc6-dev)")
        for extension in self.extensions:
            extension.extra_compile_args += [*COMPILE, *self.fortify(compiler)]
            extension.extra_link_args += LINK
            if os.environ.get("RINGQ_WERROR") == "1":
                extension.extra_compile_args.append("-Werror")
        super().build_extensions()

    def fortify(self, compiler: list[str]) -> list[str]:
        """Checks of the C library as strong as this compiler has them."""
        probe = "#include <string.h>\nint main(int n, char **v) { char b[8]; strcpy(b, v[n - 1]); return b[0]; }"
        for level in ("3", "2"):
            flags = ["-U_FORTIFY_SOURCE", f"-D_FORTIFY_SOURCE={level}"]
            if self.compiles([*compiler, "-O2", "-Werror", *flags], probe):
                return flags
        return []

    @staticmethod
    def compiles(command: list[str], source: str) -> bool:
        """Whether there is such a command and it takes this source."""
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder) / "probe.c"
            probe.write_text(source + "\n")
            try:
                done = subprocess.run(
                    [*command, "-c", str(probe), "-o", str(probe.with_suffix(".o"))], capture_output=True, check=False
                )
            except OSError:
                return False
            return done.returncode == 0


check_system()
setup(
    ext_modules=[
        Extension(
            "ringq.native._ring",
            [os.path.relpath(path, Path(__file__).parent) for path in SOURCES],
            depends=[os.path.relpath(path, Path(__file__).parent) for path in HEADERS],
            define_macros=[("_GNU_SOURCE", "1")],
            undef_macros=["NDEBUG"],  # assertions guard private memory and stay on
        )
    ],
    cmdclass={"build_ext": BuildRing},
)
