"""Two audits of one corpus, from made-up traces: figures against what is counted here by hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import saa_core as saa
from benchmarks.synthetic import synthetic
from saa_core.audit.comparison import (
    ChangedText,
    Move,
    changed_texts,
    changes_by_slice,
    moves,
    partners,
    setting,
)
from saa_core.audit.figures import About, about
from saa_core.bounds import binomial_interval
from saa_core.errors import StoreError
from saa_core.store import Store
from saa_core.trace.audited import Audited

TOKENS = 4


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def labelled(
    store: Store, audit: str, labels: Sequence[str | None], slices: Sequence[tuple[str, ...]]
) -> About:
    """An audit of a task; None is a text that it did not run."""
    runs = {}
    for at, label in enumerate(labels):
        if label is not None:
            trace = synthetic(at, label=label, text=f"Text {at}.", tokens=TOKENS)
            mark = Audited(audit, slices[at], 1.0, 0.1 * at)
            runs[f"audit-{audit}-{at}"] = replace(trace, layers=None, audited=mark)
    store.add_missing(runs)
    return about(store, audit)


def written(
    store: Store,
    audit: str,
    following: Sequence[Sequence[int]],
    slices: Sequence[tuple[str, ...]],
    *,
    base: str = "synthetic",
    policy: saa.Policy = saa.Policy(),  # noqa: B008, frozen
    seed: int = 0,
) -> About:
    """An audit of a language model: the most likely next token at each position of each text."""
    runs = {}
    for at, ids in enumerate(following):
        trace = synthetic(seed + at, text=f"Text {at}.", tokens=len(ids), policy=policy)
        runs[f"audit-{audit}-{at}"] = replace(
            trace,
            layers=None,
            model=replace(trace.model, name=base),
            top_ids=np.array([[each, 99] for each in ids]),
            top_probs=np.full((len(ids), 2), 0.5),
            audited=Audited(audit, slices[at], 1.0, 0.0),
        )
    store.add_missing(runs)
    return about(store, audit)


SLICES = (("numbers",), ("numbers", "names"), (), ("names",), ())


def test_labels_are_counted_by_slice_with_their_interval(store: Store) -> None:
    p, n = "positive", "negative"
    first = labelled(store, "one", [p, p, n, n, p], SLICES)
    second = labelled(store, "two", [n, p, n, p, None], SLICES)
    store.add(synthetic(0, policy=None, label=p, text="Text 0.", tokens=TOKENS))
    rows = {row.name: row for row in changes_by_slice(store, first, second)}
    assert list(rows) == ["all", "numbers", "names"], "all first, then as SLICES are ordered"
    counts = {name: (row.texts, row.changed) for name, row in rows.items()}
    assert counts == {"all": (4, 2), "numbers": (2, 1), "names": (2, 1)}
    for row in rows.values():
        assert row.share == row.changed / row.texts
        assert (row.low, row.high) == binomial_interval(row.changed, row.texts, 0.05)
        assert row.low < row.share < row.high
        assert row.words is None
        assert row.lost == 0
    assert moves(store, first, second) == [Move(n, p, 1, 1), Move(p, n, 1, 1)]
    assert moves(store, first, second, "numbers") == [Move(p, n, 1, 1)]
    found = changed_texts(store, first, second, "numbers")
    assert found == [
        ChangedText("audit-one-0", "audit-two-0", "Text 0.", TOKENS, None, p, n, p, 0.0)
    ]
    assert len(changed_texts(store, first, second)) == 2
    assert len(changed_texts(store, first, second, limit=1)) == 1


def test_next_words_are_counted_by_position(store: Store) -> None:
    first = written(store, "one", [[1, 2, 3, 4], [5, 6], [7, 8, 9, 7]], SLICES)
    second = written(store, "two", [[1, 9, 3, 9], [5, 6], [7, 8, 9, 4]], SLICES)
    whole, numbers, names = changes_by_slice(store, first, second)
    assert (whole.texts, whole.changed) == (3, 2)
    assert whole.words == pytest.approx((2 / 4 + 0 + 1 / 4) / 3)
    assert (whole.words_low, whole.words_high) == pytest.approx((1 / 8, 3 / 8))
    assert (numbers.name, numbers.texts, numbers.changed) == ("numbers", 2, 1)
    assert numbers.words == pytest.approx(1 / 4)
    assert (names.texts, names.changed, names.words) == (1, 0, 0)
    assert names.low == 0
    assert names.high > 0.9, "one text says next to nothing"
    assert moves(store, first, second) == [Move(2, 9, 1, 1), Move(4, 9, 1, 1), Move(7, 4, 1, 1)]
    assert moves(store, first, second, "names") == []
    listed = changed_texts(store, first, second)
    assert [(each.first, each.words) for each in listed] == [
        ("audit-one-0", 0.5),
        ("audit-one-2", 0.25),
    ]


def test_a_word_that_moves_often_comes_first_and_texts_are_counted_once(store: Store) -> None:
    first = written(store, "one", [[1, 2, 1, 3], [1, 5, 5, 5]], SLICES)
    second = written(store, "two", [[4, 2, 4, 6], [4, 5, 5, 5]], SLICES)
    assert moves(store, first, second) == [Move(1, 4, 3, 2), Move(3, 6, 1, 1)]
    assert moves(store, first, second, limit=1) == [Move(1, 4, 3, 2)]


def test_texts_of_other_tokens_do_not_count(store: Store) -> None:
    first = written(store, "one", [[1, 2, 3, 4]] * 2, SLICES)
    second = written(store, "two", [[5, 6, 7, 8]] * 2, SLICES, seed=50)
    assert changes_by_slice(store, first, second) == []
    assert moves(store, first, second) == []
    assert changed_texts(store, first, second) == []


def test_partners_ran_the_same_texts_with_results_of_one_meaning(store: Store) -> None:
    following = [[1, 2, 3, 4]] * 3
    first = written(store, "one", following, SLICES)
    written(store, "few", following[:2], SLICES, base="synthetic + adapter")
    written(store, "two", following, SLICES)
    written(store, "foreign", following, SLICES, base="another")
    labelled(store, "labels", ["positive"] * 3, SLICES)
    assert [(each.audit.key, each.shared) for each in partners(store, first)] == [
        ("two", 3),
        ("few", 2),
    ]
    assert partners(store, about(store, "labels")) == []


def test_audits_of_two_kinds_are_refused(store: Store) -> None:
    words = written(store, "words", [[1, 2, 3, 4]], SLICES)
    labels = labelled(store, "labels", ["positive"], SLICES)
    for ask in (changes_by_slice, moves, changed_texts):
        with pytest.raises(StoreError, match="choose two of one kind"):
            ask(store, words, labels)


def test_the_setting_is_that_of_the_policy(store: Store) -> None:
    which = written(store, "one", [[1, 2, 3]], SLICES, policy=saa.Policy(mass=0.8, tokens=0.5))
    found = setting(store, which)
    assert (found.model, found.rule, found.aim, found.tokens) == ("synthetic", "mass", 0.8, 0.5)
    with pytest.raises(StoreError, match="no runs"):
        setting(store, replace(which, key="gone"))
