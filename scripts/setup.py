"""Makes .venv with every package of requirements.txt, and says how far it is. Needs Python and nothing else.

    python3 scripts/setup.py
    python3 scripts/setup.py --interpreter     # and what the tests of the GPU's kernels need without a GPU

On a terminal one line shows the state; elsewhere a line is printed now and then, ever more seldom, so
that a log stays short. What pip says goes to .venv/setup.log, and its end is shown if it fails.
"""

import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOG = VENV / "setup.log"
OLDEST = (3, 11)
FIRST, FACTOR = 5.0, 1.5
"""Seconds until the first state in a log, and by how much longer each next one takes."""
TAIL = 15


class Status:
    """The line that says what is being done."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.started = time.monotonic()
        self.due, self.wait = self.started + FIRST, FIRST

    def show(self, text: str) -> None:
        """A state, which the next one replaces."""
        now = time.monotonic()
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{text[:width]}", end="", file=sys.stderr, flush=True)
        elif now >= self.due:
            print(f"  {text}, {now - self.started:.0f} s", file=sys.stderr, flush=True)
            self.wait *= FACTOR
            self.due = now + self.wait

    def keep(self, text: str) -> None:
        """A line that stays."""
        clear = "\r\033[K" if self.terminal else ""
        print(f"{clear}{text}", file=sys.stderr, flush=True)


def interpreter() -> int:
    """Brings Triton (286 MB, 1 GB on the disk) where PyTorch brought none: that of PyTorch for CUDA stays as it is.

    Returns the exit status.
    """
    status = Status()
    python = VENV / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    there = [str(python), "-c", "import importlib.util as u; exit(u.find_spec('triton') is None)"]
    if subprocess.run(there).returncode == 0:
        return 0
    if not sys.platform.startswith("linux"):
        status.keep(
            "setup: Triton is made for Linux only; the tests of its kernels will be skipped"
        )
        return 0
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (package,) = extras["optional-dependencies"]["interpreter"]
    status.keep(f"setup: {package} for the tests of the GPU's kernels, 286 MB, once")
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    with LOG.open("a", encoding="utf-8") as log:
        install = Install([*command, "--progress-bar", "raw", package], log)
        if code := install.run(status):
            status.keep(f"setup: pip ended with status {code}; see {LOG}")
            return 1
    return 0


def main() -> int:
    """Returns the exit status."""
    if "--interpreter" in sys.argv[1:]:
        return interpreter()
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        needed = ".".join(map(str, OLDEST))
        print(
            f"setup: {sys.executable} is Python {found}; {needed} or newer is needed. Name one with: "
            "make PYTHON=python3.12",
            file=sys.stderr,
        )
        return 1
    status = Status()
    status.keep(f"setup: Python packages into {VENV.name}, once; PyTorch is the largest")
    try:
        venv.create(VENV, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"setup: {VENV} could not be made: {error}. On Debian and Ubuntu the package python3-venv "
            "brings what is missing",
            file=sys.stderr,
        )
        return 1
    scripts = VENV / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [str(scripts / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    with LOG.open("w", encoding="utf-8") as log:
        for install in (
            Install([*pip, "install", "--upgrade", "pip"], log),
            Install([*pip, "install", "--progress-bar", "raw", "-r", "requirements.txt"], log),
        ):
            if code := install.run(status):
                status.keep(f"setup: pip ended with status {code}; the end of {LOG}:")
                lines = LOG.read_text(encoding="utf-8").splitlines()
                print("\n".join(lines[-TAIL:]), file=sys.stderr)
                return 1
    status.keep(f"setup: done in {time.monotonic() - status.started:.0f} s")
    return 0


class Install:
    """One run of pip, whose output goes to the log."""

    def __init__(self, command: list[str], log: TextIO) -> None:
        self.command, self.log = command, log
        self.found = set[str]()
        self.count = 0
        self.state = "asking for packages"
        self.before = _installed()

    def run(self, status: Status) -> int:
        """Returns pip's exit status."""
        with subprocess.Popen(
            self.command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            # pip is silent for minutes while it installs, so the line is not drawn by its words.
            reader = threading.Thread(target=self._read, args=(process.stdout,))
            reader.start()
            while reader.is_alive():
                reader.join(0.5)
                status.show(self._now())
        return process.returncode

    def _now(self) -> str:
        if not self.count:
            return self.state
        return f"installing, {min(self.count, _installed() - self.before)} of {self.count} packages"

    def _read(self, lines: Iterable[str]) -> None:
        file = ""
        for line in lines:
            words = line.split()
            if words[:1] == ["Progress"] and len(words) == 4 and words[3].isdigit():
                share = int(words[1]) / max(1, int(words[3]))
                self.state = f"downloading {file}, {100 * share:.0f} %"
                continue
            self.log.write(line)
            self.log.flush()
            if words[:1] == ["Collecting"]:
                self.found.add(re.split(r"[=<>!~;\[ ]", words[1])[0])
                self.state = f"{len(self.found)} packages found, last {words[1]}"
            elif words[:1] == ["Downloading"] and len(words) >= 2:
                size = " ".join(words[2:])
                file = f"{words[1].rsplit('/', 1)[-1].split('-')[0]} {size}".strip()
                self.state = f"downloading {file}"
            elif words[:2] == ["Installing", "collected"]:
                self.count = line.count(",") + 1


def _installed() -> int:
    """Packages that are in the environment by now."""
    places = ("lib/python*", "Lib")  # the second on Windows
    return sum(1 for place in places for _ in VENV.glob(f"{place}/site-packages/*.dist-info"))


if __name__ == "__main__":
    sys.exit(main())
