"""Searches policies for one's own texts, and certifies what the search found on texts that it never saw.

Two steps, on two parts of the texts. The search is an Optuna study with two aims, little work and little
loss, on the first part; it writes every trial into the folder and goes on from there when it is
started again. Then settings of its front are tested against the promise on the second part, safest
first (limits.py). Without one that passes the answer is to stay dense.

What is tested is fixed once: the folder holds the settings and the number of texts before the first
test, and each measurement as soon as there is one. Whoever is stopped in the middle goes on with
these; a second choice, tested on the same texts, would be right more rarely than promised.
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from saa_core.certify.certificate import Certificate, certificate_from
from saa_core.certify.degradation import Degradation, DegradationMeter
from saa_core.certify.limits import RiskLimit
from saa_core.certify.slices import SliceLoss, by_slice
from saa_core.certify.tune_config import SEARCHED, TuneConfig
from saa_core.data.labelled import normalise
from saa_core.errors import PolicyError, SAAError, TextError
from saa_core.model import Model, fingerprint
from saa_core.run.varlen import drops_tokens
from saa_core.types import Guard, Policy

BLOCKS = {"32x16": (32, 16), "32x32": (32, 32), "16x16": (16, 16)}
PAIRS = "pairs"
RULES = ("mass", "budget per layer", "budget per call")
GUARDS = (0.0, 0.05, 0.1)
"""Limits of missed mass that are tried; 0 is without a guard."""
MISSED = (0.002, 0.3)
"""Range of 1 - mass."""
HAND_SET_MASSES = (0.97, 0.95, 0.93, 0.9)
HAND_SET_SHARES = (0.7, 0.5)
HAND_SET_MARGINS = (0.0, 0.5)
LEAST_TEXTS = 8
STUDY = "study.log"
PLAN, MEASURED, FINISHED = "candidates", "measured", "certified"
"""What the study remembers of certifying: what is tested on how many texts, each measurement, its end."""
Progress = Callable[[str, int, int, str], None]
"""Called with (step, elapsed seconds, total seconds, message); step is "search" or "certify", of which the
latter counts settings in place of seconds."""


@dataclass(frozen=True)
class TuneTrial:
    """One setting that the search tried: means over the texts that it was given.

    Args:
        loss: of what counts (see :class:`RiskLimit`).
        work: share of dense.
        front: no other trial has less of the one without more of the other.
        hand_set: put in by hand and not by the search.
    """

    policy: Policy
    loss: float
    work: float
    front: bool
    hand_set: bool


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Args:
        promise: the chosen policy, or to stay dense, with what was certified.
        trials: in the order in which they were tried.
        slices: loss of the chosen policy on kinds of texts, of those that certified; of the safest
            certified or tested one where it stays dense.
        searched, certified: number of texts in each part.
    """

    promise: Certificate
    trials: tuple[TuneTrial, ...]
    slices: tuple[SliceLoss, ...]
    searched: int
    certified: int


def tune(
    model: Model,
    texts: Sequence[str],
    sla: RiskLimit,
    folder: Path,
    config: TuneConfig | None = None,
    *,
    baseline: Model | None = None,
    progress: Progress | None = None,
    write: Callable[[Tuned], object] | None = None,
) -> Tuned:
    """Searches and certifies; see the module.

    Args:
        texts: requests; each counts once.
        folder: holds the study. One of other texts, another model or promise is refused, and one that
            has come to its end: to test again what the same texts have judged would void the promise.
            One that was stopped while it certified goes on with the settings and texts of before.
        baseline: see :class:`DegradationMeter`.
        write: called with what was found before the study is marked as finished. Where it fails, the
            same call finds the same again, and measures nothing twice.

    Raises:
        PolicyError, ModelError, TextError: an argument cannot be used.
        SAAError: Optuna is not installed.
    """
    config = config or TuneConfig()
    config = replace(config, searched=config.searched or SEARCHED[sla.quantity])
    report = progress or (lambda step, done, total, remark: None)
    started = time.monotonic()
    found, rest = split(texts, config)
    study = _study(folder, config, _identity(model, found, rest, sla, config))
    half = 30.0 * config.minutes
    per_text = 0.0
    if PLAN not in study.user_attrs:
        meter = DegradationMeter(model, found, sla.quantity, baseline)
        per_text = _search(study, meter, sla, config, started + half, report)
    trials = _trials(study, model, sla, config)
    left = max(half, 2 * half - (time.monotonic() - started))
    if PLAN not in study.user_attrs:
        chosen = [trial.policy for trial in candidates(trials, sla, config.candidates)]
        affordable = int(left / max(per_text, 1e-6) / min(3, len(chosen)))
        # Fewer than this could certify nothing, however good the setting: better a little late.
        count = max(LEAST_TEXTS, 2 * (sla.needed() or 0), affordable)
        plan = {"policies": [asdict(policy) for policy in chosen], "texts": len(rest[:count])}
        study.set_user_attr(PLAN, plan)
    plan = study.user_attrs[PLAN]
    rest = rest[: plan["texts"]]
    measured = list[Degradation]()

    def certify() -> Iterator[Degradation]:
        for each in _measure(study, model, rest, sla, baseline, time.monotonic() + left, report):
            measured.append(each)
            yield each

    promise = certificate_from(sla, certify())
    shown = next((each for each in measured if each.policy == promise.policy), measured[0])
    slices = by_slice(rest, shown, sla)
    tuned = Tuned(promise, tuple(trials), tuple(slices), len(found), len(rest))
    if write is not None:
        write(tuned)
    study.set_user_attr(FINISHED, True)
    return tuned


def _measure(
    study: Any,
    model: Model,
    texts: list[str],
    sla: RiskLimit,
    baseline: Model | None,
    deadline: float,
    report: Progress,
) -> Iterator[Degradation]:
    """The settings of the plan on the texts that certify, in their order: what the study holds is taken
    from there, and the rest is measured and put there, before anybody judges it."""
    policies = [Policy.stored(about) for about in study.user_attrs[PLAN]["policies"]]
    meter: DegradationMeter | None = None
    for index, policy in enumerate(policies):
        name = f"{MEASURED} {index}"
        if name not in study.user_attrs:
            if index and time.monotonic() > deadline:
                return  # what has passed so far stays certified
            meter = meter or DegradationMeter(model, texts, sla.quantity, baseline)
            found = meter.of(policy)
            study.set_user_attr(name, {"losses": found.losses, "work": found.work})
            report("certify", index + 1, len(policies), str(policy))
        about = study.user_attrs[name]
        yield Degradation(policy, tuple(about["losses"]), tuple(about["work"]))


def split(texts: Sequence[str], config: TuneConfig) -> tuple[list[str], list[str]]:
    """The texts to search on and those that certify, each text once, at random.

    Raises:
        TextError: there are too few.
    """
    once = list({normalise(text): text for text in texts if text.strip()}.values())
    random.Random(config.seed).shuffle(once)
    count = min(config.searched or len(once), round(config.share * len(once)))
    if min(count, len(once) - count) < LEAST_TEXTS:
        raise TextError(
            f"texts: {len(once)} different ones, of which {count} would be searched on and "
            f"{len(once) - count} would certify; {LEAST_TEXTS} of each are needed at least"
        )
    return once[:count], once[count:]


def candidates(trials: Sequence[TuneTrial], sla: RiskLimit, most: int) -> list[TuneTrial]:
    """Settings of the front to certify, safest first: those within the tested limit on the texts of
    the search, thinned evenly; the safest of all where there are none."""
    once = {trial.policy: trial for trial in trials if trial.front}
    front = sorted(once.values(), key=lambda trial: trial.loss)
    within = [trial for trial in front if trial.loss <= sla.tested] or front[:1]
    if len(within) <= most:
        return within
    places = [round(index * (len(within) - 1) / max(most - 1, 1)) for index in range(most)]
    return [within[place] for place in places]


def _identity(
    model: Model, found: list[str], rest: list[str], sla: RiskLimit, config: TuneConfig
) -> dict[str, Any]:
    """What a folder's study must share with the one that goes on with it."""
    digest = hashlib.sha256("\0".join([*found, "", *rest]).encode("utf-8", "surrogatepass"))
    own = fingerprint(model)
    return {
        "model": model.spec.title,
        "gates": own.gates,
        "weights": own.weights,
        "texts": digest.hexdigest(),
        "sla": str(sla),
        "pairs": config.pairs,
    }


def _study(folder: Path, config: TuneConfig, identity: dict[str, Any]) -> Any:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise SAAError(
            'tune needs Optuna, which is not installed; install it with: pip install "saa-core[tune]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / STUDY)))
    study = optuna.create_study(
        study_name="saa",
        storage=storage,
        directions=["minimize", "minimize"],
        load_if_exists=True,
    )
    known = study.user_attrs.get("identity")
    if known is not None and known != identity:
        other = [name for name, value in identity.items() if known.get(name) != value]
        raise PolicyError(
            f"folder={str(folder)!r} holds a study with other {', '.join(other)}; choose another folder"
        )
    study.set_user_attr("identity", identity)
    if study.user_attrs.get(FINISHED):
        raise PolicyError(
            f"folder={str(folder)!r} is finished: its texts have certified a choice, and to ask them "
            "again would void what it promises; choose another folder, with new texts"
        )
    # A resumed search draws other settings than those that it has drawn already.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    return study


def _search(
    study: Any,
    meter: DegradationMeter,
    sla: RiskLimit,
    config: TuneConfig,
    deadline: float,
    report: Progress,
) -> float:
    """Tries settings until the deadline, one at least; returns seconds per text and setting."""
    model = meter.model
    for parameters in _hand_set(model, sla, config):
        study.enqueue_trial(parameters, user_attrs={"hand_set": True}, skip_if_exists=True)
    began, tried = time.monotonic(), 0
    total = round(deadline - began)
    while True:
        trial = study.ask()
        policy = _suggest(trial, model, sla, config)
        measured = meter.of(policy)
        loss = float(sla.clipped(measured.losses).mean())
        study.tell(trial, (measured.mean_work, loss))
        tried += 1
        now = time.monotonic()
        report(
            "search",
            min(total, round(now - began)),
            total,
            f"{policy}: loss {100 * loss:.2f} %, work {100 * measured.mean_work:.0f} %",
        )
        if now + (now - began) / tried > deadline or tried == config.trials:
            return (now - began) / tried / len(meter)


def _by_tokens(model: Model, sla: RiskLimit) -> bool:
    return sla.quantity == "label_change" and model.task is not None and drops_tokens(model)


def _suggest(trial: Any, model: Model, sla: RiskLimit, config: TuneConfig) -> Policy:
    """The policy of a trial: share of the token work, and the margin under which the reference model is asked,
    for a task that drops tokens; otherwise mass or
    budget (the same for every layer, or per layer as calibrated), blocks, and guard."""
    default = model.spec.policy.decided()
    if _by_tokens(model, sla):
        assert model.task is not None
        share = round(trial.suggest_float("tokens", *model.task.shares), 3)
        margin = round(trial.suggest_float("margin", 0.0, 1.0), 2)
        guard = Guard(missed_mass=None, margin=margin) if margin else None
        return replace(default, tokens=share, guard=guard)
    shapes = (*BLOCKS, PAIRS) if config.pairs else tuple(BLOCKS)
    rule = trial.suggest_categorical("rule", RULES)
    shape = trial.suggest_categorical("blocks", shapes)
    limit = trial.suggest_categorical("guard", GUARDS)
    aim: dict[str, Any] = {"mass": None, "budget": None, "tokens": None}
    if rule == "mass":
        aim["mass"] = round(1.0 - trial.suggest_float("missed", *MISSED, log=True), 4)
    else:
        aim["budget"] = round(trial.suggest_float("budget", 0.1, 0.95), 3)
        aim["budget_over"] = rule.removeprefix("budget per ")
    return replace(
        default,
        **aim,
        granularity="pair" if shape == PAIRS else "block",
        block=BLOCKS.get(shape, (32, 16)),
        guard=Guard(limit) if limit else None,
    )


def _hand_set(model: Model, sla: RiskLimit, config: TuneConfig) -> list[dict[str, Any]]:
    """What one would set by hand: the default and round figures around it."""
    default = model.spec.policy.decided()
    if _by_tokens(model, sla):
        assert model.task is not None
        low, high = model.task.shares
        shares = {default.tokens or high, *HAND_SET_SHARES}
        within = [share for share in sorted(shares) if low <= share <= high]
        return [{"tokens": s, "margin": margin} for s in within for margin in HAND_SET_MARGINS]
    shape = PAIRS if config.pairs else "32x16"
    masses = sorted({default.mass or HAND_SET_MASSES[0], *HAND_SET_MASSES}, reverse=True)
    return [
        {"rule": "mass", "blocks": shape, "guard": 0.0, "missed": 1.0 - mass}
        for mass in masses
        if MISSED[0] <= 1.0 - mass <= MISSED[1]
    ]


def _trials(study: Any, model: Model, sla: RiskLimit, config: TuneConfig) -> list[TuneTrial]:
    """The finished trials of the folder, of this run and of those before."""
    finished = [trial for trial in study.trials if trial.values is not None]
    values = [trial.values for trial in finished]
    found = []
    for trial in finished:
        work, loss = trial.values
        beaten = any(
            other[0] <= work and other[1] <= loss and other != trial.values for other in values
        )
        policy = _suggest(_Known(trial.params), model, sla, config)
        found.append(
            TuneTrial(policy, loss, work, not beaten, bool(trial.user_attrs.get("hand_set")))
        )
    return found


class _Known:
    """Stands in for Optuna's trial: returns the parameters of a finished one."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self.parameters[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.parameters[name]
