"""Two audits of one corpus: which labels and next words are other ones, by kind of text.

Only texts that both audits ran are looked at, and both sides are runs with SAA: two gates, two policies
or two models. Asks the store in SQL, as figures.py does. Shares are in [0, 1].
"""

from dataclasses import dataclass

from saa_core.audit.figures import ALL, About, audits
from saa_core.bounds import binomial_interval
from saa_core.certify.slices import SLICES
from saa_core.errors import StoreError
from saa_core.store import Store
from saa_core.store.sql import quoted

DELTA = 0.05
"""Intervals miss the true share with at most this probability."""


@dataclass(frozen=True)
class Partner:
    """An audit that another one can be compared with, and how many texts both have run."""

    audit: About
    shared: int


@dataclass(frozen=True)
class SliceChange:
    """What is another between two audits, over the texts of one slice; "all" is all of them.

    Args:
        texts: that both audits ran.
        changed: texts with another label; of a language model those with at least one other next word.
        share: changed / texts.
        low, high: its 95 % interval (Clopper and Pearson).
        words: mean over the texts of the share of next words that are other ones; None of labels.
        words_low, words_high: the quartiles of that share.
        lost: mean over the texts of what the second audit lost, less what the first did.
    """

    name: str
    texts: int
    changed: int
    share: float
    low: float
    high: float
    words: float | None
    words_low: float | None
    words_high: float | None
    lost: float


@dataclass(frozen=True)
class Move:
    """A label, or the id of a next token, that became another one so many times, in so many texts."""

    before: str | int
    after: str | int
    count: int
    texts: int


@dataclass(frozen=True)
class ChangedText:
    """A text whose result is another.

    Args:
        first, second: ids of its two runs.
        words: share of its next words that are other ones; None of labels.
        before, after: labels; None of a language model.
        dense: label of the dense run; None of a language model, and where that run was deleted.
        lost: what the second run lost, less what the first did.
    """

    first: str
    second: str
    text: str
    tokens: int
    words: float | None
    before: str | None
    after: str | None
    dense: str | None
    lost: float


@dataclass(frozen=True)
class Setting:
    """What one audit ran its texts with: the model's name, its gate, and of its policy the rule and what
    it aims at, and the share of the token work. None is what it has not."""

    model: str
    gate: str
    trained: bool
    rule: str | None
    aim: float | None
    tokens: float | None


def partners(store: Store, which: About) -> list[Partner]:
    """The audits that ran some of the same texts and whose results mean the same: the same labels, or
    next words of the same model, whatever its gates and adapter. Those with most texts first."""
    sql = f"""
        SELECT other.audit AS key, count(*) AS shared
        FROM runs AS one JOIN runs AS other USING (text_sha256)
        WHERE one.audit = {quoted(which.key)} AND other.audit <> one.audit
            AND CASE WHEN one.label IS NULL
                THEN other.label IS NULL AND other.base = one.base
                ELSE other.labels = one.labels END
        GROUP BY other.audit"""
    shared = {row["key"]: row["shared"] for row in store.query(sql).to_pylist()}
    found = [Partner(each, shared[each.key]) for each in audits(store) if each.key in shared]
    return sorted(found, key=lambda partner: -partner.shared)


def setting(store: Store, which: About) -> Setting:
    """What an audit ran with.

    Raises:
        StoreError: the store has no run of it.
    """
    sql = (
        "SELECT model, gate, trained, rule, aim, tokens_asked AS tokens FROM runs "
        # The reference model's answers have neither the gates nor the policy.
        f"WHERE audit = {quoted(which.key)} ORDER BY policy IS NULL LIMIT 1"
    )
    rows = store.query(sql).to_pylist()
    if not rows:
        raise StoreError(f"audit={which.key!r} has no runs in this store")
    return Setting(**rows[0])


def changes_by_slice(store: Store, first: About, second: About) -> list[SliceChange]:
    """All texts that both ran, and every slice that has some, in the order of SLICES. Empty if the two
    share no text."""
    sql = f"""
        WITH {_both(first, second)}, parts AS (
            SELECT {quoted(ALL)} AS name, changed, words, lost FROM both_ran
            UNION ALL SELECT unnest(slices) AS name, changed, words, lost FROM both_ran
        )
        SELECT name, count(*) AS texts, count(*) FILTER (WHERE changed) AS changed,
            avg(words) AS words, quantile_cont(words, 0.25) AS words_low,
            quantile_cont(words, 0.75) AS words_high, avg(lost) AS lost
        FROM parts GROUP BY name"""
    found = dict[str, SliceChange]()
    for row in store.query(sql).to_pylist():
        low, high = binomial_interval(row["changed"], row["texts"], DELTA)
        found[row["name"]] = SliceChange(
            share=row["changed"] / row["texts"], low=low, high=high, **row
        )
    return [found[name] for name in (ALL, *SLICES) if name in found]


def moves(
    store: Store, first: About, second: About, part: str = ALL, limit: int = 20
) -> list[Move]:
    """What became what in the texts of a slice, the most frequent first."""
    if first.labels:
        source = (
            f"SELECT before, after, count(*) AS count, count(*) AS texts FROM both_ran "
            f"WHERE changed{_inside(part)} GROUP BY before, after"
        )
    else:
        source = (
            "SELECT was AS before, became AS after, count(*) AS count, count(DISTINCT one) AS texts "
            "FROM positions JOIN both_ran USING (one) "
            f"WHERE was <> became{_inside(part)} GROUP BY was, became"
        )
    sql = (
        f"WITH {_both(first, second)} {source} "
        f"ORDER BY count DESC, texts DESC, before, after LIMIT {int(limit)}"
    )
    return [Move(**row) for row in store.query(sql).to_pylist()]


def changed_texts(
    store: Store, first: About, second: About, part: str = ALL, limit: int = 50
) -> list[ChangedText]:
    """The texts of a slice whose label, or some of whose next words, are other ones: those with most
    other words first, and of those the ones that lost more."""
    sql = (
        f"WITH {_both(first, second)} SELECT one AS first, two AS second, text, tokens, words, "
        f"before, after, dense, lost FROM both_ran WHERE changed{_inside(part)} "
        f"ORDER BY words DESC, lost DESC, first LIMIT {int(limit)}"
    )
    return [ChangedText(**row) for row in store.query(sql).to_pylist()]


def _both(first: About, second: About) -> str:
    """The tables ``both_ran``, a row per text that both ran, and of next words ``positions``: a row per
    position of these texts.

    Raises:
        StoreError: one is of labels and the other of next words.
    """
    if first.labels != second.labels:
        raise StoreError(
            f"audit {first.key} is of {_kind(first)} and audit {second.key} of {_kind(second)}; "
            "choose two of one kind"
        )
    pairs = f"""
        pairs AS (
            SELECT one.id AS one, two.id AS two, one.text AS text, one.tokens AS tokens,
                one.slices AS slices, two.lost - one.lost AS lost,
                one.label AS before, two.label AS after, one.dense_label AS dense
            FROM runs AS one JOIN runs AS two USING (text_sha256)
            WHERE one.audit = {quoted(first.key)} AND two.audit = {quoted(second.key)}
                AND one.tokens = two.tokens
        )"""
    if first.labels:
        return (
            f"{pairs}, both_ran AS (SELECT *, before <> after AS changed, "
            "NULL::DOUBLE AS words FROM pairs)"
        )
    # A text counts only where both runs saw the same tokens, so that ids mean the same words.
    return f"""{pairs},
        positions AS (
            SELECT one, tokens_a.next_token_id AS was, tokens_b.next_token_id AS became
            FROM pairs
            JOIN tokens AS tokens_a ON tokens_a.id = one
            JOIN tokens AS tokens_b ON tokens_b.id = two
                AND tokens_b.position = tokens_a.position
                AND tokens_b.token_id = tokens_a.token_id
        ),
        moved AS (
            SELECT one, count(*) AS positions, avg((was <> became)::INTEGER) AS words
            FROM positions GROUP BY one
        ),
        both_ran AS (
            SELECT pairs.*, words > 0 AS changed, words
            FROM pairs JOIN moved USING (one) WHERE positions = tokens
        )"""


def _kind(which: About) -> str:
    return "labels" if which.labels else "next words"


def _inside(part: str) -> str:
    return "" if part == ALL else f" AND list_contains(slices, {quoted(part)})"
