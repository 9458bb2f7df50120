"""What the chosen setting costs on rare kinds of texts, worst first, and promise against measured.

The texts are those that ship (assets/rare.toml); they are run when asked for, one after the other, and
what is done is kept when the visitor cancels.
"""

import pandas as pd
import streamlit as st

import saa_core as saa
from app.components.shared.download import export
from app.components.shared.resumable import resumable
from app.export.provenance import about_here
from app.service import Client
from app.state import session
from app.text import Words, plain
from saa_core.certify.degradation import Degradation
from saa_core.certify.slices import Rare, SliceLoss, by_rare_slice, rare_texts, usable

LIMITS = {"label_change": 0.02, "perplexity": 0.01, "missed_mass": 0.05}
"""What is shown as the limit where nothing was promised."""
KEPT = 4


def slices(choice: session.Choice, client: Client, words: Words) -> None:
    """The section: start or go on, progress and cancel, the slices, and the promise."""
    st.subheader(words("rare.header"), anchor="rare")
    if choice.model is None:
        st.caption(words("rare.recorded"))
        return
    model, state = choice.model, st.session_state
    sla = _sla(model, choice.promise)
    texts = usable(rare_texts(), model)
    asked = {"model": plain(choice.name), "policy": plain(str(choice.policy))}
    st.caption(words("rare.caption", texts=len(texts), **asked))
    wanted = (choice.name, choice.policy, sla.quantity)
    kept = state.setdefault("rare", {})
    found: list[Degradation] = kept.setdefault(wanted, [])
    for old in [key for key in kept if key != wanted][: 1 - KEPT]:
        del kept[old]
    resumable(
        "rare",
        wanted,
        found,
        len(texts),
        lambda: client.rare(choice.name, choice.policy, sla.quantity, texts[len(found) :]),
        words,
    )
    if found:
        _draw(texts[: len(found)], found, len(texts), sla, choice, words)


def _sla(model: saa.Model, promise: saa.Certificate | None) -> saa.RiskLimit:
    """What was promised; otherwise what can be measured of such a model, with a limit to compare with."""
    if promise is not None:
        return promise.sla
    quantity = "perplexity" if model.causal else "missed_mass"
    quantity = "label_change" if model.task is not None else quantity
    return saa.RiskLimit(**{quantity: LIMITS[quantity]})


def _draw(
    texts: list[Rare],
    found: list[Degradation],
    total: int,
    sla: saa.RiskLimit,
    choice: session.Choice,
    words: Words,
) -> None:
    if len(found) < total:
        st.caption(words("rare.partial", done=len(found), total=total))
    losses = tuple(loss for each in found for loss in each.losses)
    work = tuple(share for each in found for share in each.work)
    measured = Degradation(found[0].policy, losses, work)
    rows = by_rare_slice(texts, measured, sla)
    if choice.promise is not None:
        _promise(choice.promise, next(row for row in rows if row.name == "all"), measured, words)
    table = pd.DataFrame([_row(row, sla, words) for row in rows])
    st.dataframe(table, hide_index=True, width="stretch")
    limit = words.percent(sla.limit, 1)
    st.caption(words(f"rare.about_{sla.quantity}", limit=limit) + words("rare.estimate"))
    about = about_here(model=choice.name, policy=str(choice.policy), texts=len(losses))
    export("rare", words("rare.header"), words, about, rows=table)


def _row(row: SliceLoss, sla: saa.RiskLimit, words: Words) -> dict[str, str]:
    assert row.loss is not None
    assert row.low is not None
    assert row.high is not None
    kind, _, language = row.name.partition(" (")
    where = f" ({language.removesuffix(')')})" if language else ""
    return {
        words("rare.slice"): words(f"slice.{kind.replace(' ', '_')}") + where,
        words("rare.texts"): str(row.texts),
        words(f"rare.{sla.quantity}"): words.percent(row.loss, 2),
        words("rare.interval"): f"{words.percent(row.low, 1)} – {words.percent(row.high, 1)}",
        words("rare.against"): words("rare.over" if row.loss > sla.limit else "rare.within"),
    }


def _promise(
    promise: saa.Certificate, whole: SliceLoss, measured: Degradation, words: Words
) -> None:
    """What was promised, what the texts that certified showed, and what the rare ones show."""
    chosen = promise.chosen
    if chosen is None or whole.loss is None:
        return
    columns = st.columns(3)
    shown = (
        (
            "promised",
            promise.sla.limit,
            words("rare.delta", delta=words.percent(promise.sla.delta)),
        ),
        ("certified", chosen.loss, words("rare.on", texts=promise.texts)),
        ("measured", whole.loss, words("rare.on", texts=whole.texts)),
    )
    for column, (name, value, note) in zip(columns, shown, strict=True):
        column.metric(
            words(f"rare.{name}"),
            words.percent(value, 2),
            note,
            delta_color="off",
            delta_arrow="off",
            help=words(f"rare.{name}_help"),
        )
    before, now = words.percent(chosen.work, 1), words.percent(measured.mean_work, 1)
    st.caption(words("rare.work", certified=before, measured=now))
