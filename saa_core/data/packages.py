"""What lies in a pinned package, and pages of documentation as text. Knows nothing about kinds or splits."""

import hashlib
import html
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from saa_core.data.mails import without_tags

Named = Iterator[tuple[str, str]]
"""(name, text) of each document."""
PARAGRAPH = 80
"""Characters from which a paragraph that returns counts as a repetition; shorter ones are headings."""


def keep(deb: Path, pattern: str, out: Path) -> int:
    """Some files of a Debian package as a zip file, since games bring pictures; returns how many."""
    command, kept = ["dpkg-deb", "--fsys-tarfile", str(deb)], 0
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as unpacked,
        tarfile.open(fileobj=unpacked.stdout, mode="r|") as files,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for member in files:
            content = files.extractfile(member) if fnmatch(member.name, pattern) else None
            if content:
                archive.writestr(member.name.removeprefix("./"), content.read())
                kept += 1
    return kept


def members(file: Path, pattern: str, encoding: str = "utf-8") -> Named:
    """(path, text) of the files of a wheel, a zip file or a tarball that a pattern names, by path."""
    raw: dict[str, bytes] = {}
    if file.suffix == ".tgz":
        with tarfile.open(file) as package:
            for member in package:
                content = package.extractfile(member) if fnmatch(member.name, pattern) else None
                if content:
                    raw[member.name] = content.read()
    else:
        with zipfile.ZipFile(file) as package:
            raw = {
                name: package.read(name) for name in package.namelist() if fnmatch(name, pattern)
            }
    for name in sorted(raw):
        yield name, raw[name].decode(encoding)


def plain(page: str) -> str:
    """A page of HTML as text: paragraphs stand apart, and what is preformatted keeps its lines."""
    parts = re.split(r"(?is)<pre\b[^>]*>(.*?)</pre\s*>", page)
    for index, part in enumerate(parts):
        if index % 2:
            lines = html.unescape(re.sub(r"<[^>]*>", "", part)).replace("\xa0", " ")
            parts[index] = f"\n\n{lines.strip(chr(10))}\n\n"
        else:
            apart = re.sub(
                r"(?i)<(?:p|h[1-6]|blockquote|dl|ol|table|tr|ul)\b", r"<br><br>\g<0>", part
            )
            lines = "\n".join(line.strip() for line in without_tags(apart).split("\n"))
            parts[index] = lines.replace("\xa0", " ")
    text = re.sub(r"[ \t]+\n", "\n", "".join(parts))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def unwrap(text: str) -> str:
    """Joins hard-wrapped lines; an empty line ends a paragraph, an indented line stays alone."""
    paragraphs = []
    for block in re.split(r"\n[ \t]*\n", text):
        lines = [line.rstrip() for line in block.split("\n")]
        indented = sum(line.startswith(("  ", "\t")) for line in lines) > len(lines) / 2
        paragraphs.append(("\n" if indented else " ").join(lines).strip("\n"))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph.strip())


def without_repetitions(named: Iterable[tuple[str, str]], shortest: int = 600) -> Named:
    """Documents without the paragraphs that stood in an earlier one, as licences and manuals have
    them; what is left of a document is passed over where it has fewer than ``shortest`` characters."""
    seen = set[str]()
    for name, text in named:
        kept = []
        for part in text.split("\n\n"):
            key = re.sub(r"[\W\d_]+", "", part).casefold()
            if len(key) < PARAGRAPH or key not in seen:
                kept.append(part)
            seen.add(key)
        left = "\n\n".join(kept).strip()
        if len(left) >= shortest:
            yield name, left


def group(name: str) -> str:
    """What a document must not be parted from: the words before the first colon, if there is one."""
    return name.partition(": ")[0] if ": " in name else ""


def mixed(named: Iterable[tuple[str, str]]) -> Named:
    """In the order of a hash, so that the last tenth is not the newest or the last of an alphabet."""

    def place(document: tuple[str, str]) -> tuple[str, str]:
        name = document[0]
        return hashlib.sha256((group(name) or name).encode()).hexdigest(), name

    yield from sorted(named, key=place)
