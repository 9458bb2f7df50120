"""Kinds of text: who is drawn how often, what is held out, what is left out, and what is refused."""

import dataclasses
import itertools
from collections import Counter

import pytest

import saa_core as saa
from saa_core.data import corpus, fetch
from saa_core.data.corpus import Document, documents, draw_windows, join_documents

OPEN = (
    *("public domain", "GPL-2.0-or-later", "GPL-3.0-or-later", "MIT", "BSD-3-Clause", "Apache-2.0"),
    *("Artistic-2.0", "CC0-1.0", "PDDL 1.0", "Unicode-3.0", "GFDL-1.2-or-later"),
)
HELD_OUT_TOKENS = 6 * 8_192
TOY = {"shop": "list", "phones": "list", "letters": "mail", "old-letters": "mail"}


@pytest.fixture
def toy(monkeypatch):
    """Four pinned sources of two kinds, read without a download; one of them is for evaluation."""
    entries = {
        name: fetch.Pinned(
            name,
            name,
            name,
            "0" * 64,
            "MIT",
            kind=kind,
            use="evaluate" if name == "old-letters" else "train",
        )
        for name, kind in TOY.items()
    }
    texts = {name: [(f"{name} {n}", f"{name} {n}\n" * 50) for n in range(20)] for name in TOY}
    asked = []

    def fetch_data(name, progress=None):
        asked.append(name)
        return name

    monkeypatch.setattr(fetch, "datasets", lambda: entries)
    monkeypatch.setattr(fetch, "fetch_data", fetch_data)
    monkeypatch.setattr(corpus, "READERS", dict.fromkeys(TOY, texts.__getitem__))
    return texts, asked


def test_a_kind_stands_for_its_sources(toy):
    assert {text.source for text in documents(["kind:mail"])} == {"letters", "old-letters"}
    assert {text.split for text in documents(["old-letters"])} == {"heldout"}
    assert documents(["kind:list", "shop"]) == documents(["shop", "phones"])
    assert set(corpus.default_sources()) == set(TOY)


def test_what_is_left_out_is_only_held_out(toy):
    found = documents(corpus.default_sources(), leave_out=["mail"])
    assert {text.kind for text in found if text.split == "train"} == {"list"}
    assert {text.kind for text in found if text.split == "heldout"} == {"list", "mail"}


def test_recall_is_made_of_what_is_not_left_out(toy, monkeypatch):
    monkeypatch.setattr(corpus, "HAY", ("shop", "letters"))
    sources = ["recall", "shop", "letters"]
    made = [text.text for text in documents(sources, leave_out=["mail"]) if text.kind == "recall"]
    assert made
    assert not any("letters" in text for text in made)
    assert any("letters" in text.text for text in documents(sources) if text.kind == "recall")
    with pytest.raises(saa.TextError, match="nothing is left that recall is made of"):
        documents(sources, leave_out=["mail", "list"])


@pytest.mark.parametrize(
    ("sources", "leave_out", "sentence"),
    [
        (["kind:poems"], (), r"data='kind:poems' .* choose one of: kind:list, kind:mail"),
        (
            ["poems"],
            (),
            r"data='poems' .* known sources: .*shop.*; known kinds: kind:list, kind:mail",
        ),
        (["shop"], ["mail"], r"leave_out='mail' .* choose one of: list$"),
        (["kind:mail", "poems"], (), "data='poems'"),
    ],
)
def test_an_unknown_kind_names_the_argument_and_the_choices(toy, sources, leave_out, sentence):
    with pytest.raises(saa.TextError, match=sentence):
        documents(sources, leave_out=leave_out)
    assert toy[1] == [], "refused before anything is fetched"


def test_kinds_take_turns_whatever_number_of_sources_they_have(toy):
    texts = join_documents(documents(corpus.default_sources()), "train", by="kind")
    streams = {kind: text.split() for kind, text in texts.items()}
    drawn = list(itertools.islice(draw_windows(streams, (8, 16), seed=1), 60))
    assert Counter(kind for kind, _, _ in drawn) == {"list": 30, "mail": 30}
    for kind, _, words in drawn:
        assert {TOY[word] for word in words if word in TOY} == {kind}
    assert {word for _, _, words in drawn for word in words} >= {"shop", "phones", "letters"}


def test_sources_of_a_kind_share_its_length():
    found = [Document("a", "1", "a" * 10, "train", "x"), Document("b", "1", "b" * 90, "train", "x")]
    found += [
        Document("c", "1", "c" * 90, "train", "x"),
        Document("d", "1", "d" * 90, "heldout", "x"),
    ]
    (text,) = join_documents(found, "train", 70, by="kind").values()
    assert Counter(text.replace("\n", "")) == {"a": 10, "b": 30, "c": 30}
    assert set(join_documents(found, "train", 70)) == {"a", "b", "c"}


def test_a_source_may_hold_out_more_than_a_tenth(toy):
    entries = fetch.datasets()
    entries["shop"] = dataclasses.replace(entries["shop"], held_out=0.4)
    held = [text for text in documents(["shop"]) if text.split == "heldout"]
    assert len(held) == 8


def test_long_lines_and_what_belongs_together_lie_in_one_part(toy):
    texts, _ = toy
    long, own = "licence " * 40, "held out " * 40
    texts["shop"][:] = [
        *((str(n), f"{n}\n{long}\n") for n in range(18)),
        ("18", f"{long}\n{own}"),
        ("19", "z"),
    ]
    held = [text.text for text in documents(["shop"]) if text.split == "heldout"]
    assert held == [own, "z"]
    texts["phones"][:] = [(f"thread {n // 8}: {n}", str(n)) for n in range(20)]
    held = [text.text for text in documents(["phones"]) if text.split == "heldout"]
    assert held == ["16", "17", "18", "19"]


def test_texts_that_may_be_trained_on_are_open_and_of_ten_kinds():
    trained = [entry for entry in fetch.datasets().values() if entry.use == "train"]
    for entry in trained:
        assert entry.kind
        assert entry.licence.startswith(OPEN), entry.name
        assert "canary" not in entry.note, "a benchmark's texts are for evaluation"
        assert entry.package != "bigbench"
    assert len({entry.kind for entry in trained}) >= 10
    default = {fetch.datasets()[name].kind for name in corpus.default_sources()}
    assert default.isdisjoint({"encyclopedia", "japanese"})


@pytest.mark.model
def test_a_small_source_is_fetched_and_read():
    found = documents(["chats"])
    assert Counter(text.split for text in found)["train"] > 500
    assert all(text.text.startswith("User: ") for text in found)


@pytest.mark.long
def test_every_kind_is_fetched_and_has_enough_that_is_held_out(smollm2):
    """No document and no long line of a held-out part stands in any training part."""
    found = documents(corpus.default_sources())
    train = [text for text in found if text.split == "train"]
    held = [text for text in found if text.split == "heldout"]
    assert not {text.sha256 for text in train} & {text.sha256 for text in held}
    lines = {line for text in train for line in text.text.split("\n") if len(line) > 200}
    assert not [line for text in held for line in text.text.split("\n") if line in lines]
    for kind, text in join_documents(found, "heldout", by="kind").items():
        assert len(smollm2.tokenize(text)) >= HELD_OUT_TOKENS, kind
