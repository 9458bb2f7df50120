"""A presentation as one HTML file: steps by keyboard, speaker notes, full screen, maps that react.

The file works offline and asks for nothing outside itself. All text is escaped.
"""

from html import escape
from importlib import resources
from pathlib import Path

from saa_core.deck import Deck, DeckView, Step
from saa_core.deck.figures import Figure, words
from saa_core.files import write_text
from saa_core.report.maps import (
    POLICY,
    embed_json,
    has_maps,
    map_data,
    map_panel,
    part,
    report_words,
)


def write_deck(deck: Deck, file: Path) -> Path:
    """Writes the presentation."""
    write_text(file, deck_html(deck))
    return file


def deck_html(deck: Deck) -> str:
    """The presentation as HTML; each trace stands in it once, however many steps show it."""
    say = words(deck.language)
    steps = "\n".join(_step(step, number, deck) for number, step in enumerate(deck.steps, 1))
    views = {number: step.view for number, step in enumerate(deck.steps, 1) if step.view}
    drawn = {number: view for number, view in views.items() if has_maps(view.recording.trace)}
    data = {
        "traces": {
            view.recording.id: map_data(view.recording.trace, report_words(deck.language))
            for view in drawn.values()
        },
        "maps": {
            number: {
                "trace": view.recording.id,
                "layer": view.layer,
                "head": view.head,
                "query": view.query,
                "key": view.key,
            }
            for number, view in drawn.items()
        },
    }
    styles = part("page.css") + part("maps.css") + _own("deck.css")
    return (
        f'<!doctype html>\n<html lang="{deck.language}"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{POLICY}\n'
        f"<title>{escape(deck.title)}</title>\n<style>{styles}</style></head><body>\n"
        f"<header><h1>{escape(deck.title)}</h1><b class=badge>{escape(say['recorded_badge'])}</b>"
        f"<span class=quiet>{escape(say['recorded'])}</span></header>\n<main>\n{steps}\n</main>\n"
        f"<nav><button id=back>← {escape(say['back'])}</button><span id=counter></span>"
        f"<button id=next>{escape(say['next'])} →</button>"
        f"<button id=notes aria-pressed=false>{escape(say['notes'])} (n)</button>"
        f"<button id=full>{escape(say['full_screen'])} (f)</button>"
        f"<small class=quiet>{escape(say['keys'])}</small></nav>\n"
        f"{embed_json('data', data)}\n"
        f"<script>{part('maps.js')}{_own('deck.js')}</script></body></html>\n"
    )


def _own(name: str) -> str:
    return (resources.files("saa_core.deck") / name).read_text(encoding="utf-8")


def _step(step: Step, number: int, deck: Deck) -> str:
    say = words(deck.language)
    counter = say["of_steps"].format(step=number, steps=len(deck.steps))
    notes = ""
    if step.notes:
        notes = f"<aside><h3>{escape(say['notes'])}</h3>{_paragraphs(step.notes)}</aside>"
    figures = "".join(_figure(figure, deck.language) for figure in step.figures)
    figures = f"<div class=figures>{figures}</div>" if figures else ""
    panel = "" if step.view is None else _panel(step.view, deck.language)
    return (
        f'<section id="step-{number}" class="step{" shows" if panel else ""}" '
        f'data-counter="{escape(counter, quote=True)}" tabindex="-1">'
        f"<div class=said><h2>{escape(step.title)}</h2>{_paragraphs(step.text)}{figures}{notes}"
        f"</div>{panel}</section>"
    )


def _paragraphs(paragraphs: tuple[str, ...]) -> str:
    return "".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs)


def _figure(figure: Figure, language: str) -> str:
    badge = escape(words(language)["recorded_badge"])
    spread = f"<span>{escape(figure.spread)}</span>" if figure.spread else ""
    return (
        f"<div class=figure><h3>{escape(figure.label)}</h3><strong>{escape(figure.value)}</strong>"
        f"{spread}<small><b class=badge>{badge}</b> {escape(figure.recorded)}</small>"
        f"<small class=quiet>{escape(figure.source)}</small></div>"
    )


def _panel(view: DeckView, language: str) -> str:
    """The map of a step, under what ran and when it was recorded."""
    say, trace = words(language), view.recording.trace
    ran = say["recorded_map"].format(
        model=trace.model.name,
        policy=say["dense"] if trace.policy is None else trace.policy,
        date=f"{view.recording.recorded:%Y-%m-%d}",
        device=trace.execution.device,
        cpu=trace.versions.get("cpu", "?"),
        threads=trace.execution.threads,
    )
    untrained = "" if trace.model.trained else f"<p class=warning>{escape(say['untrained'])}</p>"
    return (
        f"<div class=panel><p class=ran><b class=badge>{escape(say['recorded_badge'])}</b> "
        f"{escape(ran)}</p>{untrained}{map_panel(trace, report_words(language))}</div>"
    )
