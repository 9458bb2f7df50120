"""Chooses the sparsest policy of which a user's own texts show that it keeps to what was promised.

    promise = certify_policy(model, texts, RiskLimit(perplexity=0.01))
    run(model, text, promise.policy)         # None: stay dense

The ladder of settings is fixed before the texts are seen, and goes from safe to sparse. What comes out
holds for requests that are exchangeable with the texts (docs/guarantees.md).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from saa_core.certify.degradation import Degradation, DegradationMeter
from saa_core.certify.limits import RiskLimit
from saa_core.errors import PolicyError
from saa_core.model import Model
from saa_core.run.varlen import drops_tokens
from saa_core.types import Guard, Policy, Progress

MASSES = (0.995, 0.99, 0.985, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.9, 0.88, 0.85, 0.8)
MARGINS = (0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
SHARE = 0.5
SHARE_STEP = 0.05
REASONS = ("certified", "few texts", "over the limit", "no saving")
Reason = Literal["certified", "few texts", "over the limit", "no saving"]


@dataclass(frozen=True)
class Setting:
    """What one policy of the ladder did on the texts.

    Args:
        loss: mean of what counts (see :class:`RiskLimit`).
        low, high: 95 % interval of the true mean, for this setting alone.
        work: share of dense, mean over texts.
        p_value: of the hypothesis that the true mean is over the tested limit.
        certified: passed, as did all before it.
    """

    policy: Policy
    loss: float
    low: float
    high: float
    work: float
    p_value: float
    certified: bool


@dataclass(frozen=True)
class Certificate:
    """The chosen policy, what it promises, and what that rests on.

    Args:
        policy: None stays dense: the baseline, which loses nothing.
        texts: number of texts that decided.
        settings: in the order in which they were tested; the first failure is the last one.
        reason: "certified"; or why it stays dense: "few texts" (more of them could show it), "over
            the limit" (the safest setting itself loses too much), "no saving" (what passes computes no
            less than dense).
        needed: about how many texts would have been needed where there were too few.
    """

    sla: RiskLimit
    policy: Policy | None
    texts: int
    settings: tuple[Setting, ...]
    reason: Reason
    needed: int | None = None

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise PolicyError(f"reason={self.reason!r} must be one of: {', '.join(REASONS)}")
        if (self.policy is None) == (self.reason == "certified"):
            raise PolicyError(f"reason={self.reason!r} does not go with policy={self.policy!s}")

    @property
    def chosen(self) -> Setting | None:
        """The figures of the chosen policy."""
        return next((found for found in self.settings if found.policy == self.policy), None)

    def __str__(self) -> str:
        """One or two sentences."""
        chosen = self.chosen
        if chosen is not None:
            return (
                f"{chosen.policy}: {self.sla}, shown on {self.texts} texts (measured "
                f"{100 * chosen.loss:.2f} %, p {chosen.p_value:.3f}); work {100 * chosen.work:.1f} % of "
                "dense"
            )
        first = self.settings[0]
        measured = f"{first.policy}, the safest setting, lost {100 * first.loss:.2f} %"
        why = {
            "few texts": f"{self.texts} texts are too few: {measured}, and about {self.needed} texts "
            "like these would be needed to show that it keeps to the limit",
            "over the limit": f"{measured}, and {100 * self.sla.tested:.2f} % are tested (limit and "
            "margin): more texts would not help",
            "no saving": f"{measured} and computes {100 * first.work:.1f} % of dense: nothing is saved",
        }[self.reason]
        return f"stay dense ({self.sla}): {why}"


def certify_policy(
    model: Model,
    texts: Sequence[str],
    sla: RiskLimit,
    *,
    ladder: Sequence[Policy] | None = None,
    baseline: Model | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """Tests a ladder of policies, safest first, on texts like those that will come.

    Args:
        texts: one request each; none of them may have had a part in making the ladder.
        ladder: from safe to sparse; :func:`ladder_for` the model by default. Certified is what decides
            every text: a text that falls back would be computed densely by a model with an adapter.
        baseline: the dense model to compare with; needed for a model with an adapter (the one
            without).
        progress: called with settings that were tested, and how many there are at most.

    Raises:
        ModelError, TextError, PolicyError: see :class:`DegradationMeter`.
    """
    steps = list(ladder_for(model, sla) if ladder is None else ladder)
    steps = [policy.decided() for policy in steps]  # what is measured is what is promised
    if not steps:
        raise PolicyError("ladder is empty; give at least one policy")
    meter = DegradationMeter(model, texts, sla.quantity, baseline)

    def measured() -> Iterable[Degradation]:
        for index, policy in enumerate(steps):
            found = meter.of(policy)
            if progress:
                progress(index + 1, len(steps))
            yield found

    return certificate_from(sla, measured())


def certificate_from(sla: RiskLimit, measured: Iterable[Degradation]) -> Certificate:
    """Tests what was measured, in the order in which it comes, until the first failure; takes the
    certified setting that works least."""
    settings = list[Setting]()
    last: Degradation | None = None
    for found in measured:
        last = found
        p_value = sla.p_value(found.losses)
        low, high = sla.interval(found.losses)
        mean = float(sla.clipped(found.losses).mean())
        passed = p_value <= sla.delta
        settings.append(
            Setting(found.policy, mean, low, high, found.mean_work, p_value, certified=passed)
        )
        if not passed:
            break
    if last is None:
        raise PolicyError("measured is empty; give at least one setting")
    certified = [setting for setting in settings if setting.certified]
    if not certified:
        needed = sla.needed(last.losses)
        reason: Reason = "over the limit" if needed is None else "few texts"
        return Certificate(sla, None, len(last.losses), tuple(settings), reason, needed)
    best = min(certified, key=lambda setting: setting.work)
    if best.work >= 1.0:
        return Certificate(sla, None, len(last.losses), tuple(settings), "no saving")
    return Certificate(sla, best.policy, len(last.losses), tuple(settings), "certified")


def ladder_for(model: Model, sla: RiskLimit) -> list[Policy]:
    """Settings from safe to sparse, everything else as the model's default has it.

    For labels of a task that drops tokens: the default's share of the token work with fewer and fewer
    texts that the reference model answers, then lower shares without it. Masses otherwise.
    """
    default = model.spec.policy.decided()
    if sla.quantity == "label_change" and model.task is not None and drops_tokens(model):
        start = default.tokens or SHARE
        count = int((start - model.task.shares[0]) / SHARE_STEP + 1e-9)
        shares = [round(start - SHARE_STEP * step, 4) for step in range(count + 1)]
        guards = [Guard(missed_mass=None, margin=margin) for margin in MARGINS]
        sure = [replace(default, tokens=start, guard=guard) for guard in guards]
        return sure + [replace(default, tokens=share, guard=None) for share in shares]
    return [replace(default, mass=mass, budget=None, tokens=None) for mass in MASSES]
