"""What the first page opens on: a recorded text with what was left out of it, beside two smaller stories.

Everything shown was recorded; a button runs the same text here. Texts are only ever shown as plain text.
"""

import base64
from typing import Any

import streamlit as st

from app.components.shared.figures import figures, work_share
from app.components.shared.outcome import ask_of
from app.components.strips.crossed import half_way, play
from app.state.stories import Story, stories
from app.text import Words, plain
from saa_core import Trace


def show_stories(words: Words) -> None:
    """The first story of the language large, the others beside it."""
    first, *others = stories(words.lang)
    left, right = st.columns([3, 2], gap="medium")
    with left.container(border=True, key=f"story-{first.id}"):
        {"task": _task, "embedding": _embedding}[first.kind](first, words)
    with right:
        for story in others:
            with st.container(border=True, key=f"story-{story.id}"):
                {"long": _long, "guard": _guard}[story.kind](story, words)


def _task(story: Story, words: Words) -> None:
    """A classified text with its dropped tokens crossed out."""
    result, typical = story.result, story.typical
    trace, dense = result.trace, result.dense
    assert dense is not None
    label, before = plain(trace.label or ""), plain(dense.label or "")
    key = "task_title" if label == before else "task_title_differs"
    share = words.percent(1 - work_share(result))
    st.subheader(
        words(f"story.{key}", label=label, before=before, share=share), anchor=f"story-{story.id}"
    )
    st.caption(words("story.task_about"))
    play(trace, words, f"player-{story.id}", half_way(trace))
    work, answer, time = st.columns(3)
    _figure(
        work,
        words("story.task_work"),
        share,
        words("story.task_work_spread", work=words.percent(1 - (typical.work or 0))),
    )
    _figure(
        answer,
        words("story.task_answer"),
        label,
        words(
            "story.task_answer_spread",
            share=_sure(trace, words),
            before=before,
            before_share=_sure(dense, words),
        ),
    )
    if typical.faster is not None and typical.faster_spread is not None:
        low, high = typical.faster_spread
        _figure(
            time,
            words("story.task_time"),
            words("story.task_time_value", ratio=typical.faster),
            words("story.task_time_spread", low=low, high=high),
        )
    elif trace.kept_tokens is not None:
        left = int(trace.kept_tokens[-1].sum())
        _figure(
            time,
            words("story.task_left"),
            words("story.task_left_value", left=left, all=trace.keys),
            words("story.task_left_spread"),
        )
    changed, texts = typical.changed or 0.0, typical.texts or 0
    st.caption(
        words(
            "story.task_typical",
            texts=texts,
            same=round(texts * (1 - changed)),
            changed=words.percent(changed, 1),
            **_ends(typical.changed_spread, words),
        )
    )
    _recorded(story, words)


def _embedding(story: Story, words: Words) -> None:
    """A text beside the map of one head."""
    result, typical, found = story.result, story.typical, figures(story.result)
    share = words.percent(found.dropped)
    st.subheader(words("story.embedding_title", share=share), anchor=f"story-{story.id}")
    st.caption(words("story.embedding_about"))
    said, drawn = st.columns([3, 2], gap="medium")
    with said.container(height=300, border=False):
        st.text(result.trace.text or "")
    with drawn:
        _picture(story, words)
    pairs, alike, kept = st.columns(3)
    _figure(
        pairs,
        words("story.embedding_pairs"),
        share,
        words("story.embedding_pairs_spread", **_middle(found.dropped_heads, words)),
    )
    _figure(
        alike,
        words("story.embedding_cosine"),
        f"{found.cosine:.4f}",
        words("story.embedding_cosine_spread"),
    )
    if found.retained is not None and found.retained_heads is not None:
        _figure(
            kept,
            words("story.embedding_kept"),
            words.percent(found.retained),
            words("story.embedding_kept_spread", **_middle(found.retained_heads, words)),
        )
    low, high = typical.cosine_spread or (0.0, 0.0)
    st.caption(
        words(
            "story.embedding_typical",
            texts=typical.texts,
            tokens=typical.tokens,
            share=words.percent(1 - (typical.work or 0)),
            cosine=typical.cosine,
            low=low,
            high=high,
        )
    )
    _recorded(story, words)


def _long(story: Story, words: Words) -> None:
    """A long text: how fast it is read, and one of its maps."""
    typical, trace = story.typical, story.result.trace
    st.subheader(words("story.long_title", ratio=typical.faster), anchor=f"story-{story.id}")
    drawn, said = st.columns([2, 5], gap="small")
    with drawn:
        _picture(story, words)
    low, high = typical.faster_spread or (0.0, 0.0)
    worse = {"low": 0.0, "high": 0.0}
    if typical.worse_spread is not None:
        worse = dict(zip(worse, typical.worse_spread, strict=True))
    with said:
        st.markdown(
            words("story.long_about", tokens=trace.keys, share=words.percent(trace.sparsity))
        )
        st.caption(
            words(
                "story.long_typical",
                tokens=typical.tokens,
                dtype=typical.dtype,
                faster=typical.faster,
                low=low,
                high=high,
                worse=words.signed(typical.worse or 0.0, 1),
                worse_low=words.signed(worse["low"], 1),
                worse_high=words.signed(worse["high"], 1),
            )
        )
    _recorded(story, words)


def _guard(story: Story, words: Words) -> None:
    """A text on which SAA alone is wrong, and what the guard makes of it."""
    typical, result = story.typical, story.result
    assert result.dense is not None
    assert story.guarded is not None
    st.subheader(words("story.guard_title"), anchor=f"story-{story.id}")
    st.markdown(
        words(
            "story.guard_about",
            text=plain(story.text.replace("[SEP]", "/")),
            before=plain(result.dense.label or ""),
            label=plain(result.trace.label or ""),
            guarded=plain(story.guarded.label or ""),
        )
    )
    st.caption(
        words(
            "story.guard_typical",
            texts=typical.texts,
            changed=words.percent(typical.changed or 0.0, 1),
            left=words.percent(typical.guarded_changed or 0.0, 1),
            asked=words.percent(typical.asked or 0.0, 1),
        )
    )
    _recorded(story, words)


def _recorded(story: Story, words: Words) -> None:
    """When and on what, and the button that measures it here."""
    trace = story.result.trace
    typical = story.typical
    place = st.container(horizontal=True, vertical_alignment="center", gap="small")
    said = words(
        "story.recorded",
        date=f"{story.recorded:%Y-%m-%d}",
        cpu=plain(trace.versions.get("cpu", "?")),
    )
    if typical.faster is not None:
        gap = "" if words.lang == "ja" else " "
        said += gap + words(
            "story.timed", date=typical.recorded, cpu=plain(typical.cpu), threads=typical.threads
        )
    day = f"{story.recorded:%Y-%m-%d}"
    cpu = plain(trace.versions.get("cpu", "?"))
    place.badge(words("story.badge", date=day, cpu=cpu), color="gray", help=said)
    place.caption(words("story.nothing"))
    place.button(
        words("story.measure"),
        on_click=ask_of,
        args=(story.model, story.text),
        key=f"measure-{story.id}",
        help=words("story.measure_help"),
    )


def _picture(story: Story, words: Words) -> None:
    """The recorded map of one head. As HTML: `st.image` would smooth it and make a JPEG of it."""
    png = base64.b64encode(story.pictures[st.context.theme.type == "dark"]).decode()
    about = words("story.picture")
    st.html(
        f'<img src="data:image/png;base64,{png}" alt="{about}" title="{about}" '
        'style="width:100%;max-width:19rem;image-rendering:pixelated">'
    )


def _figure(place: Any, name: str, value: str, spread: str) -> None:
    place.metric(name, value)
    place.caption(spread)


def _sure(trace: Trace, words: Words) -> str:
    assert trace.label_probs is not None
    return words.percent(float(trace.label_probs.max()))


def _middle(heads: tuple[float, float, float], words: Words) -> dict[str, str]:
    return {"low": words.percent(heads[0]), "high": words.percent(heads[2])}


def _ends(spread: tuple[float, float] | None, words: Words) -> dict[str, str]:
    low, high = spread or (0.0, 0.0)
    return {"low": words.percent(low, 1), "high": words.percent(high, 1)}
