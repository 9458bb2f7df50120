"""Runs an encoder on texts of different lengths without any padding, and drops tokens on the way.

All tokens of a batch stand behind each other, so that linear layers meet only tokens that are still
needed. A token that its gate drops stays dropped, keeps its state, and stays in the mean of its text.
Inside the attention each text is by itself.

Shapes: T tokens of all texts, A of them still needed, B texts, E hidden size, H heads, D head size, N
tokens of one text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from saa_core.attention import Call, Plan, StageTimer, choose_kernel, decide
from saa_core.errors import ModelError, PolicyError, TextError
from saa_core.families import FAMILIES, family_of
from saa_core.families.packing import PackedLayer, Packing
from saa_core.gates.pair import PairGate
from saa_core.gates.token import TokenGate, shifts_at
from saa_core.kernels import KERNELS
from saa_core.model import Model
from saa_core.pairs import Allowed, Decision, expand
from saa_core.run.packed_attention import attend
from saa_core.trace.record import LayerRecord, record_layer
from saa_core.types import TOKEN, Policy


@dataclass(frozen=True)
class Encoded:
    """What came out of a batch.

    Args:
        states: final hidden states [T, E], dropped tokens as they were when they were dropped.
        lengths: tokens per text, [B].
        needed: tokens that each layer computed, per text, int64 [L, B].
    """

    states: Tensor
    lengths: Tensor
    needed: Tensor

    @property
    def token_share(self) -> float:
        """Share of the token work that was done: tokens computed / tokens, mean over layers."""
        return float(self.needed.sum() / (self.lengths.sum() * len(self.needed)))

    @property
    def means(self) -> Tensor:
        """Mean of the final states of each text, dropped tokens included, [B, E]."""
        return mean_by_text(self.states, self.lengths)

    def split(self) -> list[Tensor]:
        """Final states per text, [N, E] each."""
        return list(self.states.split(self.lengths.tolist()))


def mean_by_text(states_TE: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean of the states of each of the texts that stand behind each other, float32 [B, E]."""
    sums = torch.zeros(len(lengths_B), states_TE.shape[1], device=states_TE.device)
    text_T = torch.arange(len(lengths_B), device=sums.device).repeat_interleave(lengths_B)
    return sums.index_add(0, text_T, states_TE.float()) / lengths_B[:, None]


def packing_of(model: Model) -> Packing:
    """How a model is packed.

    Raises:
        ModelError: its family cannot be packed; lists those that can.
    """
    pack = family_of(model.hf).pack
    if pack is None:
        names = sorted(t for family in FAMILIES.values() if family.pack for t in family.model_types)
        raise ModelError(
            f"model={model.spec.name!r} cannot drop tokens; model types that can: {', '.join(names)}"
        )
    return pack(model.hf)


def token_gates(packing: Packing) -> list[TokenGate | None]:
    """The token gate in front of each layer, None where there is none."""
    return [getattr(layer.module, "saa_token_gate", None) for layer in packing.layers]


def drops_tokens(model: Model) -> bool:
    """True where the model has token gates."""
    pack = family_of(model.hf).pack
    return pack is not None and any(token_gates(pack(model.hf)))


def encode(
    model: Model,
    batch: Sequence[Sequence[int]],
    policy: Policy | None = None,
    call: Call | None = None,
) -> Encoded:
    """Final states of a batch of token ids, each with its special tokens.

    Args:
        policy: ``tokens`` says which share of the token work to do. Among the tokens that are left,
            pairs are decided as everywhere, unless mass or budget is 1. None is dense.
        call: what records the run, or clocks its attention; of one text only.

    Raises:
        TextError: the batch or a text in it is empty, or a text is too long.
        PolicyError: tokens are to be dropped and the model has no token gates, or a person forces
            pairs as well.
        ModelError: the model's family cannot be packed.
    """
    packing = packing_of(model)
    gates = token_gates(packing)
    share = _share(model, policy, gates)
    _check(model, batch)
    recording = call is not None and call.record != "none"
    if recording and len(batch) > 1:
        raise PolicyError(f"batch holds {len(batch)} texts; only a single one can be recorded")
    device = model.device
    lengths = torch.tensor([len(ids) for ids in batch])
    ids_T = torch.tensor([i for ids in batch for i in ids], device=device)
    positions_T = torch.cat([torch.arange(len(ids)) for ids in batch]).to(device)
    text_T = torch.arange(len(batch)).repeat_interleave(lengths).to(device)
    special_T = special_tokens(model, ids_T) if share < 1 else None
    pairs_by = [_resolve(packing, policy, len(ids)) for ids in batch]
    pairwise = policy is not None and any(p.aim < 1 or p.kernel != "auto" for p in pairs_by)
    if recording and policy is not None and call is not None:
        call.used = pairs_by[0]
    with torch.inference_mode():
        x_AE = packing.embed(ids_T, positions_T)
        states_TE = torch.empty_like(x_AE)  # a row is written when its token leaves, or at the end
        alive_A, still = torch.arange(len(ids_T), device=device), lengths
        shifts = [] if special_T is None else shifts_at([g for g in gates if g is not None], share)
        shift_of, needed = iter(shifts), []
        for layer, gate in zip(packing.layers, gates, strict=True):
            if recording:
                score_T = torch.full((len(ids_T),), torch.nan, device=device)
            if gate is not None and special_T is not None:
                score_A = gate.unshifted(x_AE.float()) + next(shift_of)
                if recording:
                    score_T[alive_A] = score_A
                kept = ((score_A > 0) | special_T[alive_A]).nonzero()[:, 0]
                if len(kept) < len(alive_A):
                    states_TE.index_copy_(0, alive_A, x_AE)
                    alive_A, x_AE = alive_A[kept], x_AE.index_select(0, kept)
                    still = _left(text_T, alive_A, len(batch))
            needed.append(still)
            q, k, v = _heads(layer, x_AE)
            watch = StageTimer(call.seconds, device) if call is not None and call.clock else None
            if pairwise or recording:
                each = (x.split(still.tolist(), 2) for x in (q, k, v))
                parts = [
                    decide_and_attend(layer.attention, own, used, call, watch)
                    for own, used in zip(zip(*each, strict=True), pairs_by, strict=True)
                ]
                mixed = torch.cat([part[0] for part in parts], 2)
                if recording:
                    assert call is not None
                    whole = states_TE.index_copy(0, alive_A, x_AE)
                    decision = None if policy is None else parts[0][1]
                    record = spread_record(
                        *_heads(layer, whole)[:2], decision, alive_A, score_T, call.record == "full"
                    )
                    call.layers[layer.attention.saa_gate.layer] = record  # type: ignore[union-attr, index]
            else:
                mixed = attend(q, k, v, still)
            if watch:
                watch.lap("kernel")
            x_AE = layer.finish(x_AE, mixed[0].transpose(0, 1).flatten(1))
        states_TE.index_copy_(0, alive_A, x_AE)
    return Encoded(states_TE, lengths.to(device), torch.stack(needed))


def _left(text_T: Tensor, alive_A: Tensor, texts: int) -> Tensor:
    """Tokens that each text still has, int64 [B], on the CPU."""
    if texts == 1:
        return torch.tensor([len(alive_A)])
    return torch.bincount(text_T[alive_A], minlength=texts).cpu()


def encode_all(
    model: Model, texts: Sequence[Sequence[int]], policy: Policy | None = None, *, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Mean final states [texts, E] and tokens that each layer computed, int64 [texts, L], on the CPU.

    Texts of similar length are computed together, ``batch`` at a time. Errors are those of
    :func:`encode`.
    """
    layers = len(packing_of(model).layers)
    means = torch.empty(len(texts), int(model.hf.config.hidden_size))
    needed = torch.empty(len(texts), layers, dtype=torch.int64)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        encoded = encode(model, [texts[index] for index in part], policy)
        means[part], needed[part] = encoded.means.cpu(), encoded.needed.T.cpu()
    return means, needed


def check_tokens(model: Model, policy: Policy) -> None:
    """Raises PolicyError where a policy cannot be followed by the packed driver."""
    _share(model, policy, token_gates(packing_of(model)))


def _resolve(packing: Packing, policy: Policy | None, length: int) -> Policy:
    """What one text's pairs are decided by; of a dense run, whose record keeps every pair."""
    gate: PairGate = packing.layers[0].attention.saa_gate  # type: ignore[assignment]
    return gate.resolve(policy or Policy(mass=1.0), length)


def _share(model: Model, policy: Policy | None, gates: Sequence[TokenGate | None]) -> float:
    """The share of the token work that a policy asks for; 1 drops nothing.

    Raises:
        PolicyError: the policy asks for what is not there, or not possible here.
    """
    if policy is None:
        return 1.0
    Call(policy)  # knows the kernels and rules
    probed = policy.guard is not None and policy.guard.missed_mass is not None
    for name, given in (("force", policy.force), ("tail", policy.tail), ("guard", probed)):
        if given:
            raise PolicyError(
                f"{name}={getattr(policy, name)!r} cannot be used where tokens are packed; leave it out"
            )
    if policy.fallback == "dense":
        raise PolicyError(
            f"fallback={policy.fallback!r} cannot be used where tokens are packed; choose 'auto' or 'never'"
        )
    share = 1.0 if policy.tokens is None else policy.tokens
    if share < 1 and not any(gates):
        raise PolicyError(
            f"tokens={share!r}: model={model.spec.title!r} has no token gates; load it with a task, or "
            "train some with saa train-task"
        )
    low, high = (0.0, 1.0) if model.task is None else model.task.shares
    if share < 1 and not low <= share <= high:
        raise PolicyError(
            f"tokens={share!r}: the gates of {model.spec.title!r} were trained for shares from "
            f"{low:g} to {high:g}; choose one of these, or 1 to drop nothing"
        )
    return share


def decide_and_attend(
    attention: nn.Module,
    heads: tuple[Tensor, ...],
    policy: Policy,
    call: Call | None,
    watch: StageTimer | None = None,
) -> tuple[Tensor, Decision]:
    """Attention of one text under its pair gate: what is mixed [1, H, N, D], and the decision.

    Args:
        heads: queries, keys and values [1, H, N, D].
        call: is told which kernel ran.
        watch: is told what gate and rule took.
    """
    q, k, v = heads
    gate: PairGate = attention.saa_gate  # type: ignore[assignment]
    allowed = Allowed(q.shape[2], q.shape[2], False, q.device)
    plan = Plan(allowed, policy, as_is=False)
    decision = decide(gate, q, k, plan, watch)
    if policy.kernel == "auto" and bool(decision.keep.all()):
        if call is not None and call.kernel == "dense":
            call.kernel_reason = "every pair of the tokens that are left is kept"
        return scaled_dot_product_attention(q, k, v), decision
    name, reason = choose_kernel(policy, plan.block, allowed, q)
    if call is not None:
        call.kernel, call.kernel_reason = name, reason
    return KERNELS[name](q, k, v, decision, allowed, q.shape[-1] ** -0.5), decision


def spread_record(
    q_BHND: Tensor,
    k_BHND: Tensor,
    decision: Decision | None,
    alive_A: Tensor,
    score_N: Tensor,
    full: bool,
) -> LayerRecord:
    """The record of one layer at the positions of the text, dropped tokens as empty rows and columns.

    Args:
        q_BHND, k_BHND: of all tokens, dropped ones from the state that they kept.
        decision: among the tokens that are left; None is dense.
    """
    H, N, D = q_BHND.shape[1:]
    allowed = Allowed(N, N, False, q_BHND.device)
    alive = torch.zeros(1, N, dtype=torch.bool, device=q_BHND.device)
    alive[0, alive_A] = True
    wide = None
    if decision is not None:
        left, (bq, _) = len(alive_A), decision.block
        inner = Allowed(left, left, False, q_BHND.device)
        at = (slice(None), slice(None), alive_A[:, None], alive_A)
        keep = torch.zeros(1, H, N, N, dtype=torch.bool, device=q_BHND.device)
        keep[at] = decision.pair_keep(inner)
        score = torch.zeros(1, H, N, N, device=q_BHND.device)
        score[at] = expand(decision.score, decision.block, left, left)
        codes = torch.full((1, 1, N, N), TOKEN, dtype=torch.uint8, device=q_BHND.device)
        codes[at] = expand(decision.forced, decision.block, left, left)
        bar = torch.full((1, H, N), torch.inf, device=q_BHND.device)
        bar[:, :, alive_A] = decision.threshold.repeat_interleave(bq, 2)[:, :, :left]
        wide = Decision((1, 1), keep, score, bar, codes, allowed.count((1, 1)), decision.target)
    record = record_layer(
        *(q_BHND, k_BHND, wide, allowed, D**-0.5),
        full=full,
        kept_tokens=alive,
        token_score=score_N[None],
    )
    if decision is None:
        return record
    # Scores of blocks, spread over their pairs, are no masses of single pairs any more.
    return replace(record, predicted_mass=decision.predicted_mass.cpu())


def _check(model: Model, batch: Sequence[Sequence[int]]) -> None:
    if not batch or not all(len(ids) for ids in batch):
        raise TextError("batch is empty, or a text in it has no tokens")
    longest = max(len(ids) for ids in batch)
    if longest > model.max_length:
        raise TextError(
            f"a text has {longest} tokens, and {model.spec.name} takes at most {model.max_length}",
            limit=model.max_length,
            length=longest,
        )


def special_tokens(model: Model, ids: Tensor) -> Tensor:
    """Where the tokens stand that frame a text; they are never dropped. bool, shaped like ``ids``."""
    return torch.isin(ids, torch.tensor(special_ids(model), device=ids.device))


def special_ids(model: Model) -> list[int]:
    """Ids of the tokens that frame a text, ascending."""
    names = ("cls_token_id", "sep_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
    found = {getattr(model.tokenizer, name, None) for name in names}
    return sorted(each for each in found if each is not None)


def _heads(layer: PackedLayer, x_AE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [1, H, A, D]."""
    heads = int(layer.attention.config.num_attention_heads)  # type: ignore[union-attr, arg-type]
    q, k, v = (
        part.view(len(x_AE), heads, -1).transpose(0, 1)[None] for part in layer.project(x_AE)
    )
    return q, k, v
