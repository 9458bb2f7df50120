"""Checks one forward call by the exact attention of some random queries, and corrects it on the way.

In every layer two samples of queries are drawn, each query by itself. The first looks for faults: where
a layer misses clearly more than its policy planned, the key blocks that these queries would have
needed are kept for all queries of the heads concerned; if fresh queries still miss too much, such heads
compute everything. The second sample meets the decision as it is executed, and only counts: it feeds
an upper bound of the request's mean missed mass. When what was counted so far could no longer be made
good by computing all later layers in full, just that is done. Where a text is far from those that the gates
were trained on (gates/ood.py), both samples are twice as large in every layer.

The bound is a bet (bounds.py): means may differ from layer to layer, and may depend on what was seen
before.

Shapes: B batch, H query heads, G key/value heads, Q, K positions, M, S query and key blocks, R sampled
queries, D head size.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saa_core.bounds import least_samples, log_capital, upper_bound
from saa_core.errors import PolicyError
from saa_core.exact import PLAIN, Softmax, attention_weights, per_block
from saa_core.gates.ood import OodDetector, features
from saa_core.pairs import Allowed, Decision
from saa_core.types import DENSE, PROBE, Guard

TOLERANCE = 0.6
"""A layer may miss this share of the limit more than planned before it is looked into."""
CHANCE = 2.0
"""Standard errors above the sample mean in the upper estimate of a layer's missed mass."""
MOST_SPENT = 1 / 6
"""Share of the request's total missed mass that one layer may plan to miss; the limit at least."""
LOOKED = 0.5
"""Queries that look for faults, as a share of those that count."""
MOST_ADDED = 0.5
"""Share of the key blocks that may be added to a head; a head that needs more computes everything."""
FAR_ROWS = 2
"""Factor on the sampled queries where a text is far from the training texts."""


@dataclass(frozen=True)
class Checked:
    """What the guard found out about one request.

    Args:
        bound: upper bound of the mean missed mass, which holds with probability 1 - delta.
        estimate: mean missed mass of the queries that count.
        limit, delta: as asked for.
        queries: that count, over all layers.
        full_layers: layers that were computed in full because of the guard.
    """

    bound: float
    estimate: float
    limit: float
    delta: float
    queries: int
    full_layers: int

    @property
    def met(self) -> bool:
        """True where the bound is within the limit."""
        return self.bound <= self.limit


class Inspection:
    """The guard at work during one forward call.

    Raises:
        PolicyError: the guard's rows are too few for its limit, whatever they find.

    Attributes:
        limit: of the missed mass.
        events: what was suspected, measured and done, as plain values; ``item`` says in which text, and
            ``added`` is what it cost: pairs that were computed because of it, as a share of all that are
            allowed in all layers and heads, None where a timed call did not decide them.
    """

    def __init__(self, guard: Guard, layers: int, batch: int) -> None:
        assert guard.missed_mass is not None
        self.guard = guard
        self.limit = guard.missed_mass
        self.layers = layers
        self.rows = guard.rows_for(layers)
        least = math.ceil(least_samples(self.limit, guard.delta) / layers)
        if self.rows < least:
            raise PolicyError(
                f"rows={self.rows!r}: over {layers} layers so few queries can never show that "
                f"missed_mass={self.limit:g} is kept to with delta={guard.delta:g}, so that every request "
                f"would be computed twice; give {least} rows at least, or None to have them chosen"
            )
        self.events: list[dict[str, Any]] = []
        self.rest = torch.zeros(batch, dtype=torch.bool)  # texts that run densely from here on
        self._counted = list[Tensor]()  # [B, rows] per layer
        self._full = torch.zeros(batch, dtype=torch.int64)
        self._reserve = dict[int, dict[str, Any]]()  # by text, the event that made it run densely
        self._draw = torch.Generator().manual_seed(guard.seed)

    def look_at(self, q_BHQD: Tensor, allowed: Allowed, known: OodDetector) -> None:
        """Before the first layer: samples FAR_ROWS times the queries in all layers if any text of the batch
        is far from the training texts."""
        real_BQ = allowed.real_queries.expand(len(q_BHQD), -1)
        distances = known.distance(features(q_BHQD, real_BQ)).tolist()
        far = False
        for item, (found, length) in enumerate(
            zip(distances, real_BQ.sum(1).tolist(), strict=True)
        ):
            limit = known.limit(int(length))
            if found > limit:
                far = True
                measured = found if math.isfinite(found) else None
                event = self._note(0, item, "input", [], measured, None, "twice")
                more = (FAR_ROWS - 1) * (self.rows + math.ceil(self.rows * LOOKED))
                event |= {"limit": limit, "added": more / length}
        if far:
            self.rows *= FAR_ROWS

    def undecided(self) -> None:
        """Counts a layer that runs densely without asking its gate; the added cost is unknown."""
        self._all_in_full()
        for event in self._reserve.values():
            event["added"] = None

    def _all_in_full(self) -> None:
        self._counted.append(torch.zeros(len(self.rest), self.rows))
        self._full += 1

    @torch.no_grad()
    def correct(
        self,
        layer: int,
        q_BHQD: Tensor,
        k_BGKD: Tensor,
        decision: Decision,
        allowed: Allowed,
        scale: float,
        planned: float,
        sound: bool = True,
        softmax: Softmax = PLAIN,
    ) -> Decision:
        """The decision, corrected where it has to be; counts what it misses.

        Args:
            planned: missed mass that the policy aims at in this layer.
            sound: False where the gate itself is known to be broken.
            softmax: how scores become weights beyond the scale.
        """
        planned = min(planned, max(1.0, MOST_SPENT * self.layers) * self.limit)
        decision = self._mend_scores(layer, decision, sound)
        if bool(_everything(decision).all()):
            self._all_in_full()
            return decision
        probe = _Probe(q_BHQD, k_BGKD, allowed, decision.block, scale, self._draw, softmax)
        decision, worst_B = self._look(layer, probe, decision, planned)
        self._look_ahead(layer, worst_B)
        if bool(self.rest.any()):
            whole = in_full(decision, self.rest[:, None].expand(decision.keep.shape[:2]))
            self._charge_reserve(decision, whole)
            decision = whole
        everything = _everything(decision)
        missed = probe.sample(self.rows).missed(decision.keep).mean(1).cpu().clamp(0.0, 1.0)
        self._full += everything
        self._counted.append(torch.where(everything[:, None], 0.0, missed))
        return decision

    def checked(self, item: int) -> Checked:
        """The result for one text, after the last layer."""
        counted = torch.cat([each[item] for each in self._counted])
        return Checked(
            bound=float(upper_bound(counted, self.guard.delta)),
            estimate=float(counted.mean()),
            limit=self.limit,
            delta=self.guard.delta,
            queries=len(counted),
            full_layers=int(self._full[item]),
        )

    def _mend_scores(self, layer: int, decision: Decision, sound: bool) -> Decision:
        """Heads whose scores are not finite, and texts that are already run densely, keep everything."""
        finite = decision.score.isfinite().flatten(2).all(-1).cpu() & sound
        heads = ~finite | self.rest[:, None]
        if not bool(heads.any()):
            return decision
        score = decision.score.nan_to_num(0.0, 0.0, 0.0)
        whole = in_full(replace(decision, score=score), heads)
        added_B = self._added_share(decision, whole)
        for item in (~finite.all(1) & ~self.rest).nonzero()[:, 0].tolist():
            broken = (~finite[item]).nonzero()[:, 0].tolist()
            event = self._note(layer, item, "scores", broken, None, None, "dense")
            event["added"] = float(added_B[item])
        self._charge_reserve(decision, whole)
        return whole

    def _look(
        self, layer: int, probe: "_Probe", decision: Decision, planned: float
    ) -> tuple[Decision, Tensor]:
        """Adds the key blocks that a first sample misses; a second sample checks that this was enough.

        Returns:
            The decision, and the upper estimate of the layer's missed mass, [B].
        """
        limit = planned + TOLERANCE * self.limit
        rows = math.ceil(self.rows * LOOKED)
        sample = probe.sample(rows)
        missed_BHR = sample.missed(decision.keep).cpu()
        missed_BH = missed_BHR.mean(2)
        over = (missed_BH.mean(1) > limit) & ~self.rest
        if not bool(over.any()):
            return decision, self._worst(missed_BHR)
        heads = over[:, None] & (missed_BH > planned)
        tried = _with_heavy(decision, sample, heads, planned)
        again_BHR = probe.sample(rows).missed(tried.keep).cpu()
        again_BH = again_BHR.mean(2)
        still = over & (again_BH.mean(1) > limit)
        failed = still[:, None] & heads & (again_BH > planned)
        failed |= (still & ~failed.any(1))[:, None] & heads
        corrected = in_full(tried, failed) if bool(failed.any()) else tried
        added_B = self._added_share(decision, corrected)
        for item in over.nonzero()[:, 0].tolist():
            what = "dense" if bool(failed[item].any()) else "probe"
            named = (failed if what == "dense" else heads)[item].nonzero()[:, 0].tolist()
            before, after = float(missed_BH[item].mean()), float(again_BH[item].mean())
            event = self._note(layer, item, "missed", named, before, after, what)
            event["added"] = float(added_B[item])
        again_BHR[failed] = 0.0
        return corrected, self._worst(again_BHR)

    def _added_share(self, before: Decision, after: Decision) -> Tensor:
        """Pairs of a layer that were added, as a share of those allowed in all layers and heads, [B]."""
        more = ((after.keep & ~before.keep) * before.count).sum((1, 2, 3), dtype=torch.float64)
        allowed = before.count.sum((1, 2, 3)).clamp(min=1) * before.keep.shape[1] * self.layers
        share: Tensor = (more / allowed).cpu()
        return share

    def _charge_reserve(self, before: Decision, after: Decision) -> None:
        """Adds the cost of a densely run layer to the event that sent its text there."""
        if not self._reserve:
            return
        added_B = self._added_share(before, after)
        for item, event in self._reserve.items():
            if event["added"] is not None:
                event["added"] += float(added_B[item])

    def _worst(self, missed_BHR: Tensor) -> Tensor:
        """Upper estimate of the layer's missed mass: sample mean plus CHANCE standard errors, [B]."""
        missed_BR = missed_BHR.mean(1)
        spread = missed_BR.std(1, correction=0) * (1 / missed_BR.shape[1] + 1 / self.rows) ** 0.5
        worst: Tensor = missed_BR.mean(1) + CHANCE * spread
        return worst.clamp(max=1.0)

    def _look_ahead(self, layer: int, worst_B: Tensor) -> None:
        """Marks the texts that run densely from this layer on: those that could not keep to the limit even
        then, if this layer missed as much as its upper estimate."""
        left = self.layers - len(self._counted)
        ahead = torch.zeros(len(self.rest), left * self.rows)
        ahead[:, : self.rows] = worst_B[:, None]
        counted = torch.cat([*self._counted, ahead], 1)
        enough = log_capital(counted, self.limit) >= -math.log(self.guard.delta)
        for item in (~enough & ~self.rest).nonzero()[:, 0].tolist():
            known = self._counted
            measured = float(torch.cat([each[item] for each in known]).mean()) if known else None
            event = self._note(layer, item, "reserve", [], measured, None, "dense")
            self._reserve[item] = event
        self.rest |= ~enough

    def _note(
        self,
        layer: int,
        item: int,
        suspected: str,
        heads: list[int],
        measured: float | None,
        after: float | None,
        done: str,
    ) -> dict[str, Any]:
        event = {
            "layer": layer,
            "item": item,
            "suspected": suspected,
            "heads": heads,
            "measured": measured,
            "after": after,
            "done": done,
            "added": 0.0,
        }
        self.events.append(event)
        return event


class _Sample:
    """Exact attention of some queries: their mass per key block, and the query blocks they lie in."""

    def __init__(self, mass_BHRS: Tensor, block_BR: Tensor) -> None:
        self.mass_BHRS = mass_BHRS
        self.block_BR = block_BR

    def kept(self, keep_BHMS: Tensor) -> Tensor:
        """Which blocks the sampled queries keep, bool [B, H, R, S]."""
        B, H, R, S = self.mass_BHRS.shape
        at = self.block_BR[:, None, :, None].expand(B, H, R, S)
        return keep_BHMS.gather(2, at)

    def missed(self, keep_BHMS: Tensor) -> Tensor:
        """Missed mass of each query, [B, H, R]."""
        return (self.mass_BHRS * ~self.kept(keep_BHMS)).sum(-1)


class _Probe:
    """Draws queries of one layer and computes their attention exactly."""

    def __init__(
        self,
        q_BHQD: Tensor,
        k_BGKD: Tensor,
        allowed: Allowed,
        block: tuple[int, int],
        scale: float,
        draw: torch.Generator,
        softmax: Softmax,
    ) -> None:
        self.q_BHQD, self.k_BGKD, self.softmax = q_BHQD, k_BGKD, softmax
        self.allowed, self.block, self.scale, self.draw = allowed, block, scale, draw
        spans = self.spans = allowed.intervals
        seen = allowed.pairs[:, 0].any(-1) if spans is None else spans[1] >= spans[0]
        B = len(q_BHQD)
        self.seen_BQ = seen.expand(B, -1).float().cpu()
        self.seen_BQ = torch.where(self.seen_BQ.any(1, keepdim=True), self.seen_BQ, 1.0)

    def sample(self, rows: int) -> _Sample:
        """So many queries that see any key, each drawn by itself."""
        at_BR = torch.multinomial(self.seen_BQ, rows, replacement=True, generator=self.draw)
        at_BR = at_BR.to(self.q_BHQD.device)
        B, H, _, D = self.q_BHQD.shape
        q_BHRD = self.q_BHQD.gather(2, at_BR[:, None, :, None].expand(B, H, rows, D))
        visible, bent = self._visible(at_BR), self.softmax.at(at_BR)
        weights = attention_weights(q_BHRD, self.k_BGKD, visible, self.scale, bent)
        return _Sample(per_block(weights, self.block[1]), at_BR // self.block[0])

    def _visible(self, at_BR: Tensor) -> Tensor:
        """Keys that the queries see, bool [B, 1, R, K]."""
        B = len(at_BR)
        if self.spans is None:
            pairs = self.allowed.pairs[:, 0].expand(B, -1, -1)
            return pairs.gather(1, at_BR[..., None].expand(-1, -1, pairs.shape[-1]))[:, None]
        first, last = (span.expand(B, -1).gather(1, at_BR)[..., None] for span in self.spans)
        keys = torch.arange(self.allowed.keys, device=at_BR.device)
        return ((keys >= first) & (keys <= last))[:, None]


def _everything(decision: Decision) -> Tensor:
    """Which texts keep every allowed pair, bool [B]."""
    return (decision.keep | (decision.count == 0)).flatten(1).all(1).cpu()


def in_full(decision: Decision, heads_BH: Tensor) -> Decision:
    """The decision with every allowed block of some heads kept, for the reason "dense"."""
    chosen = heads_BH[..., None, None].to(decision.keep.device) & (decision.count > 0)
    return _add_blocks(decision, chosen & ~decision.keep, DENSE)


def _with_heavy(decision: Decision, sample: _Sample, heads_BH: Tensor, planned: float) -> Decision:
    """The decision with the key blocks added that the sampled queries miss most, heaviest first,
    until these would miss half of what was planned."""
    device = decision.keep.device
    lost_BHS = (sample.mass_BHRS * ~sample.kept(decision.keep)).mean(2)
    ranked, order = lost_BHS.sort(-1, descending=True)
    before = lost_BHS.sum(-1, keepdim=True) - (ranked.cumsum(-1) - ranked)
    place = torch.arange(ranked.shape[-1], device=device)
    take = (before > planned / 2) & (place < math.ceil(MOST_ADDED * ranked.shape[-1]))
    columns = torch.zeros_like(take).scatter(-1, order, take & (ranked > 0))
    columns &= heads_BH[..., None].to(device)
    return _add_blocks(decision, columns[:, :, None] & (decision.count > 0) & ~decision.keep, PROBE)


def _add_blocks(decision: Decision, more_BHMS: Tensor, reason: int) -> Decision:
    code = torch.full((), reason, dtype=torch.uint8, device=more_BHMS.device)
    return replace(
        decision,
        keep=decision.keep | more_BHMS,
        forced=torch.where(more_BHMS, code, decision.forced),
    )
