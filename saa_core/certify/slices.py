"""Kinds of texts that are rare and easily harmed, and what a policy costs on each of them.

A slice is a plain question about a text. Texts may be in several slices or in none. What a slice
shows is an estimate with its interval, and no promise: a promise is about the mean over all texts.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from saa_core.certify.degradation import Degradation, DegradationMeter
from saa_core.certify.limits import RiskLimit
from saa_core.data import fetch
from saa_core.errors import TextError
from saa_core.model import Model
from saa_core.run.text import encode
from saa_core.types import Policy

SHORT, LONG = 6, 200
"""Words; two characters count as one where words are not set apart."""
NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|nowhere|neither|nor|without|cannot|\w+n['’]t)\b"
    r"|ない|なかっ|ません|なく|ずに|決して",
    re.IGNORECASE,
)
NAME = re.compile(
    r"(?<=[a-z,;:’'] )[A-Z][a-z]+|\b(?:Mr|Mrs|Ms|Dr|Prof)\b\.?|[一-龯ァ-ヴー]+(?:さん|氏|様|博士)"
)
"""A capital inside a sentence, or a title."""
CODE = re.compile(
    r"\b\w+\([^)\s]*\)|[{};]\s*$|^\s*(?:def|class|import|from|return|if|for)\b.*[:(]|=>|->|==|!=|::|</\w"
    r"|^\s*[$#>] \w+|\w+\.\w+\(",
    re.MULTILINE,
)
JAPANESE = re.compile(r"[ぁ-ゖァ-ヺ一-龯]")


def words(text: str) -> float:
    """Length of a text in words, also where these are not set apart."""
    japanese = len(JAPANESE.findall(text))
    return len(JAPANESE.sub(" ", text).split()) + japanese / 2


SLICES: dict[str, Callable[[str], bool]] = {
    "numbers": lambda text: bool(
        re.search(r"\d|[〇一二三四五六七八九十百千万億]+[年月日円人個]", text)
    ),
    "negation": lambda text: bool(NEGATION.search(text)),
    "names": lambda text: bool(NAME.search(text)),
    "code": lambda text: len(CODE.findall(text)) >= 2,
    "japanese": lambda text: len(JAPANESE.findall(text)) > 0.2 * len(text),
    "very short": lambda text: words(text) < SHORT,
    "very long": lambda text: words(text) > LONG,
}


def slices_of(text: str) -> tuple[str, ...]:
    """Names of the slices that a text is in."""
    return tuple(name for name, has in SLICES.items() if has(text))


@dataclass(frozen=True)
class SliceLoss:
    """What a policy costs on the texts of one slice.

    Args:
        texts: how many there are; with none the figures are None.
        loss: mean of what counts (see :class:`RiskLimit`); low and high are its 95 % interval.
    """

    name: str
    texts: int
    loss: float | None
    low: float | None
    high: float | None


def by_slice(texts: Sequence[str], measured: Degradation, sla: RiskLimit) -> list[SliceLoss]:
    """The slices, worst first; those without texts last. "all" is among them."""
    members = {name: [i for i, t in enumerate(texts) if has(t)] for name, has in SLICES.items()}
    return _worst_first({"all": list(range(len(texts))), **members}, measured, sla)


def _worst_first(
    members: dict[str, list[int]], measured: Degradation, sla: RiskLimit
) -> list[SliceLoss]:
    found = []
    for name, indices in members.items():
        if not indices:
            found.append(SliceLoss(name, 0, None, None, None))
            continue
        losses = [measured.losses[index] for index in indices]
        found.append(
            SliceLoss(name, len(losses), float(sla.clipped(losses).mean()), *sla.interval(losses))
        )
    return sorted(found, key=lambda each: -1.0 if each.loss is None else each.loss, reverse=True)


@dataclass(frozen=True)
class Rare:
    """A text of the rare-case set. ``language`` is "en" or "ja"."""

    slice: str
    language: str
    text: str


def rare_texts(file: Path | None = None) -> list[Rare]:
    """The texts that ship: a handful per slice, written for this project or in the public domain."""
    path = file or fetch.assets() / "rare.toml"
    found = []
    for about in tomllib.loads(path.read_text(encoding="utf-8"))["text"]:
        text = about.get("text")
        if text is None:
            text = (fetch.assets() / "examples" / about["file"]).read_text(encoding="utf-8")
        found.append(Rare(about["slice"], about["language"], text.strip()))
    return found


def usable(rare: Sequence[Rare], model: Model) -> list[Rare]:
    """The texts that a model can take; one that is loaded for a task cuts what is too long."""
    return [each for each in rare if model.task is not None or _fits(model, each.text)]


def _fits(model: Model, text: str) -> bool:
    try:
        return len(encode(model, text)["input_ids"]) > 1
    except TextError:
        return False


def one_by_one(
    rare: Sequence[Rare], model: Model, policy: Policy, quantity: str, baseline: Model | None
) -> Iterator[Degradation]:
    """A policy on one text after the other, for those who want to stop in between.

    Raises:
        ModelError, TextError, PolicyError: see :class:`DegradationMeter`.
    """
    for each in rare:
        yield DegradationMeter(model, [each.text], quantity, baseline).of(policy)


def by_rare_slice(rare: Sequence[Rare], measured: Degradation, sla: RiskLimit) -> list[SliceLoss]:
    """The same for the rare-case set, where each text says itself what it stands for; "all" is among
    them."""
    members: dict[str, list[int]] = {"all": list(range(len(rare)))}
    for index, each in enumerate(rare):
        members.setdefault(f"{each.slice} ({each.language})", []).append(index)
    return _worst_first(members, measured, sla)


def slice_table(slices: Sequence[SliceLoss]) -> list[str]:
    """One line per slice, for the command line."""
    lines = [f"{'slice':18} {'texts':>6}   loss (95 % interval)"]
    for each in slices:
        if each.loss is None or each.low is None or each.high is None:
            lines.append(f"{each.name:18} {0:6}   no such texts")
        else:
            lines.append(
                f"{each.name:18} {each.texts:6}   {100 * each.loss:6.2f} % "
                f"({100 * each.low:.2f} to {100 * each.high:.2f})"
            )
    return lines
