"""The texts of both languages: the same keys, the same fields, none unused."""

import re
from pathlib import Path
from string import Formatter

from app import text

ROOT = Path(__file__).parents[2]


def test_languages_have_the_same_keys_and_fields() -> None:
    tables = {lang: text.load(lang).table for lang in text.LANGUAGES}
    english, japanese = tables["en"], tables["ja"]
    assert english.keys() == japanese.keys()
    for key, sentence in english.items():
        fields = [
            {part.split(":")[0] for part in names(line)} for line in (sentence, japanese[key])
        ]
        assert fields[1] <= fields[0], key
        assert key == "plain.gap" or japanese[key].strip(), key


def names(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name}


def test_every_key_is_used_and_every_used_key_exists() -> None:
    code = "\n".join(file.read_text("utf-8") for file in (ROOT / "app").rglob("*.py"))
    keys = set(text.load("en").table)
    groups = "|".join({key.partition(".")[0] for key in keys})
    written = re.findall(rf"""["']((?:{groups})\.(?:[a-z_]|\{{[^}}]*\}})+)["']""", code)
    used: set[str] = set()
    for literal in written:
        pattern = re.compile(re.sub(r"\\?\{.*?\}", "[a-z_]+", literal))
        matching = {key for key in keys if pattern.fullmatch(key)}
        assert matching, literal
        used |= matching
    assert used == keys
