"""Bytes -> text: in which encoding somebody else's file is written.

Byte-order marks come first, then strict UTF-8, which nothing else passes by accident. Of the encodings of one
or two bytes a detector needs long texts to tell Shift-JIS from Latin-1, and tables are often short: these two,
and EUC-JP, are told apart by what their letters would be. For everything else charset-normalizer is asked.
"""

import codecs
import gzip
import importlib
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from saa_core.errors import TextError

SAMPLE = 1 << 16
"""Bytes from which an encoding that is not UTF-8 is told."""
CHUNK = 1 << 20
CONTEXT = 64
"""Bytes before the first that is not ASCII which belong to the sample."""
DETECTABLE = 32
"""Bytes outside ASCII from which charset-normalizer is asked; of fewer it guesses."""
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a byte-order mark"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
NAMES = {
    "cp932": "Shift-JIS (cp932)",
    "euc_jp": "EUC-JP",
    "cp1252": "Latin-1 (cp1252)",
    "latin-1": "Latin-1",
}
KANA = re.compile("[\u3000-\u30ff\uff01-\uff60]")
"""Kana, Japanese punctuation and full-width forms."""
HALF_WIDTH = re.compile("[\uff61-\uff9f]+")
CONTROL = re.compile("[\x00-\x08\x0e-\x19\x1c-\x1f\x7f\x80-\x84\x86-\x9f]")
"""Control characters that no text editor writes; 0x1a ended files once, 0x1b begins colours."""
MOST_CONTROL = 0.02


@dataclass(frozen=True)
class Encoding:
    """A codec of Python, and what it is called."""

    codec: str
    name: str


UTF8 = Encoding("utf-8", "UTF-8")


def recognize(file: Path) -> Encoding:
    """The encoding of a file. However long it is, only a part of it is in memory.

    Raises:
        TextError: it is no text, or UTF-8 with a damaged place, or cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return _recognize(stream, str(file))
    except OSError as error:
        raise TextError(f"{file} cannot be read: {error.strerror or error}") from error


def decode(raw: bytes, what: str) -> str:
    """Bytes as text, without a byte-order mark, line ends as ``\\n``.

    Args:
        what: names the bytes in errors.

    Raises:
        TextError: see :func:`recognize`.
    """
    encoding = _recognize(io.BytesIO(raw), what)
    try:
        text = raw.decode(encoding.codec)
    except UnicodeDecodeError as error:
        raise damaged(what, encoding, error) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(file: str | Path) -> str:
    """The text of a plain or gzipped file.

    Raises:
        TextError: see :func:`recognize`.
    """
    path = Path(file)
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".gz":
            raw = gzip.decompress(raw)
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise TextError(f"{path} is no whole gzip file: {error}") from error
    return decode(raw, str(path))


def damaged(what: str, encoding: Encoding, error: UnicodeError) -> TextError:
    """The error for bytes that are not what the file's beginning is."""
    return TextError(f"{what} cannot be read as {encoding.name}: {error}; save it as UTF-8")


def _recognize(stream: BinaryIO, what: str) -> Encoding:
    start = stream.read(4)
    for mark, codec, name in MARKS:
        if start.startswith(mark):
            return Encoding(codec, name)
    stream.seek(0)
    broken, first, zeros = _scan(stream)
    stream.seek(0)
    beginning = stream.read(SAMPLE)
    whole = len(beginning) < SAMPLE
    if zeros and (wide := _utf16(beginning, whole)):
        return wide
    if broken is None:
        return _text_at_all(beginning, whole, UTF8, what)
    stream.seek(max(0, first - CONTEXT))
    sample = stream.read(SAMPLE)
    whole = len(sample) < SAMPLE
    read = sample.decode("utf-8", "replace")
    bad, all_of_it = read.count("\ufffd"), sum(not sign.isascii() for sign in read)
    if all_of_it - bad > 4 * bad:
        raise TextError(
            f"{what} is UTF-8 but for the byte at position {broken:,}; save it again as UTF-8"
        )
    return _text_at_all(sample, whole, _narrow(sample, whole, what), what)


def _scan(stream: BinaryIO) -> tuple[int | None, int, bool]:
    """Where UTF-8 breaks, if it does; the first byte that is not ASCII; whether there are zero bytes."""
    decoder, at, first, zeros = codecs.getincrementaldecoder("utf-8")(), 0, -1, False
    while True:
        chunk = stream.read(CHUNK)
        zeros = zeros or b"\0" in chunk
        if first < 0 and not chunk.isascii():
            first = at + next(index for index, byte in enumerate(chunk) if byte > 127)
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            # The decoder keeps the beginning of a character that a chunk ends in.
            return at + len(chunk) - len(error.object) + error.start, first, zeros
        if not chunk:
            return None, first, zeros
        at += len(chunk)


def _part(raw: bytes, codec: str, whole: bool) -> str | None:
    """Text of a sample, whose last character may be cut; None if it is not in this encoding."""
    try:
        return codecs.getincrementaldecoder(codec)().decode(raw, final=whole)
    except (UnicodeError, LookupError):
        return None


def _text_at_all(raw: bytes, whole: bool, encoding: Encoding, what: str) -> Encoding:
    text = _part(raw, encoding.codec, whole)
    if text is None or len(CONTROL.findall(text)) > max(1, MOST_CONTROL * len(text)):
        raise TextError(f"{what} is no text: no encoding gives its bytes a meaning")
    return encoding


def _utf16(raw: bytes, whole: bool) -> Encoding | None:
    """UTF-16 without a mark: most of its characters would be ASCII, Latin, Japanese or Chinese."""
    for codec, order in (("utf-16-le", "little"), ("utf-16-be", "big")):
        text = _part(raw, codec, whole)
        if text and not CONTROL.search(text):
            known = re.findall("[\t\n\r -\u024f\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]", text)
            if len(known) > 0.7 * len(text) and re.search("[\n -~]", text):
                return Encoding(codec, f"UTF-16 ({order}-endian, without a byte-order mark)")
    return None


def _narrow(raw: bytes, whole: bool, what: str) -> Encoding:
    """The encoding of bytes that are not UTF-8."""
    kana = {codec: _kana(_part(raw, codec, whole)) for codec in ("cp932", "euc_jp")}
    if kana["euc_jp"] > max(0.2, kana["cp932"]):
        return Encoding("euc_jp", NAMES["euc_jp"])
    shift_jis = _part(raw, "cp932", whole)
    if shift_jis is not None and _japanese(shift_jis) > 0.5:
        return Encoding("cp932", NAMES["cp932"])
    others = sum(byte > 127 for byte in raw)
    letters = len(re.findall(rb"[A-Za-z]", raw))
    if others > max(letters, DETECTABLE):
        detector = importlib.import_module("charset_normalizer")
        best = detector.from_bytes(raw, cp_exclusion=["utf_7"]).best()
        if best is None:
            raise TextError(f"{what} is no text: no encoding gives its bytes a meaning")
        return Encoding(best.encoding, NAMES.get(best.encoding, best.encoding.replace("_", "-")))
    codec = "latin-1" if _part(raw, "cp1252", whole) is None else "cp1252"
    return Encoding(codec, NAMES[codec])


def _kana(text: str | None) -> float:
    """Share of kana among the characters that are not ASCII."""
    if text is None:
        return 0.0
    return len(KANA.findall(text)) / max(1, sum(not sign.isascii() for sign in text))


def _japanese(text: str) -> float:
    """Share of the characters outside ASCII that speak for Shift-JIS, where the bytes may be Latin-1.

    Accented letters become lone half-width kana ("GRﾖSSE"), or one rare character together with the letter
    behind them ("tr鑚"), and a curly apostrophe makes one common character ("it痴"): they touch letters.
    """
    good = bad = 0
    for run in re.finditer("[^\0-\x7f]+", text):
        signs = run[0]
        beside = text[max(0, run.start() - 1) : run.start()] + text[run.end() : run.end() + 1]
        touches = any(sign.isalpha() for sign in beside)
        if CONTROL.search(signs) or re.search("[\xa0\ue000-\uf8ff]", signs):
            speaks = False  # bytes that Shift-JIS does not use
        elif KANA.search(signs):
            speaks = True
        elif HALF_WIDTH.fullmatch(signs):
            speaks = len(signs) > 1 and not touches
        else:
            common = all(0x88 <= sign.encode("cp932")[0] <= 0x98 for sign in signs)
            speaks = not touches or (common and len(signs) > 1)
        good, bad = good + speaks * len(signs), bad + (not speaks) * len(signs)
    return good / max(1, good + bad)
