"""Random models, masks, caches, number formats and kernels: one case from one seed.

A case makes a model, runs it, attaches SAA to it and runs it again: without a policy, which has to be
bit-equal, and under a policy that keeps everything, which has to be equal but for rounding.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

import saa_core as saa
from saa_core.attention import Call
from tests.seam.models import DECODERS, ENCODERS, EXPERTS, make

LIMITS = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-2}
BENT = ("gemma2", "gpt_oss", "granite_swa")
"""Model types with soft caps or attention sinks."""
UNEVEN = ("deepseek_v2", "deepseek_v3")
"""Model types whose values have another size than their keys."""
FIXED = (*UNEVEN, "mobilebert", "minimax", "lfm2", "qwen3_next")
"""Model types whose heads cannot be chosen as freely."""
WITHOUT_CACHE = ("minimax", "lfm2", "qwen3_next")
"""Model types with layers that are no attention and need caches of their own."""
JUDGED = ("mobilebert",)
"""Model types without norms, whose rounding errors grow from layer to layer."""
MASKS = ("none", "ones", "left", "right", "both", "pairs", "numbers", "bias", "packed")


@dataclass(frozen=True)
class Case:
    """Everything that is drawn."""

    seed: int
    name: str
    implementation: str | None
    dtype: torch.dtype
    training: bool
    changes: dict[str, Any]
    rows: int
    length: int
    mask: str
    cache: str
    policy: saa.Policy
    record: str


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Args:
        kind: "equal"; "equal by layer", where in half precision the model's own rounding, or its choice of
            experts, is larger than any difference at the end; "refused" (in words); "not run" (by the
            model itself); or a fault: "wrong", "raw".
        says: the reason, or how far apart it was.
    """

    kind: str
    says: str = ""


def draw(seed: int) -> Case:
    """The case of a seed."""
    pick = random.Random(seed)
    name = pick.choice([*DECODERS, *ENCODERS])
    decoder = name in DECODERS
    dtype = pick.choices([torch.float32, torch.bfloat16, torch.float16], [6, 2, 1])[0]
    mask = pick.choice(MASKS if decoder else [kind for kind in MASKS if kind != "packed"])
    implementation = pick.choice(["eager", "sdpa"])
    if mask == "pairs":  # eager attention cannot take it
        implementation = "sdpa"
    if name in BENT:
        implementation, mask = "eager", "numbers" if mask == "pairs" else mask
    cached = decoder and mask in ("none", "ones", "left") and name not in WITHOUT_CACHE
    cache = pick.choice(["none", "growing", "its own", "static"]) if cached else "none"
    training = dtype == torch.float32 and pick.random() < 0.3
    # Over a static cache's empty slots the model draws random numbers that nobody else does.
    dropout = pick.choice([0.0, 0.3]) if training and cache != "static" else 0.0
    changes: dict[str, Any] = {"num_hidden_layers": 2, "attention_dropout": dropout}
    for key in ("attn_pdrop", "attention_probs_dropout_prob"):
        changes[key] = dropout
    if name not in FIXED:
        size = pick.choice([8, 16, 16, 32])
        changes |= {"head_dim": size, "hidden_size": 4 * size}
        changes |= {"num_key_value_heads": pick.choice([1, 2, 4])}
        if name in ("opt",):
            changes["word_embed_proj_dim"] = 4 * size
    bent = name in BENT or mask == "bias" or dropout > 0
    size = changes.get("head_dim", 16)
    kernels = ["auto", "auto", "reference"]
    if pick.random() < 0.05:
        kernels = ["native", "gather"]
    elif not bent:
        kernels += ["gather"] if name in UNEVEN or size % 16 or training else ["gather", "native"]
    policy = saa.Policy(
        mass=1.0, kernel=pick.choice(kernels), granularity=pick.choice(["pair", "block", "auto"])
    )
    return Case(
        *(seed, name, implementation, dtype, training, changes),
        rows=pick.randint(1, 3),
        length=pick.randint(2, 70),
        mask=mask,
        cache=cache,
        policy=policy,
        record=pick.choice(["none", "none", "summary", "full"]),
    )


def inputs(case: Case) -> tuple[dict[str, Tensor], Tensor]:
    """What forward gets beside the ids, and the queries that are tokens, bool [rows, length]."""
    pick = torch.Generator().manual_seed(case.seed)
    B, N = case.rows, case.length
    real = torch.ones(B, N, dtype=torch.bool)
    if case.mask == "none":
        return {}, real
    if case.mask == "packed":
        cut = N // 2
        positions = torch.cat([torch.arange(cut), torch.arange(N - cut)])
        return {"position_ids": positions.expand(B, N).contiguous()}, real
    if case.mask in ("ones", "left", "right", "both"):
        for row in range(B):
            less = 0 if case.mask == "ones" else int(torch.randint(0, N, (), generator=pick))
            left = case.mask == "left" or (case.mask == "both" and row % 2 == 0)
            real[row, slice(0, less) if left else slice(N - less, N)] = False
        return {"attention_mask": real.long()}, real
    pairs = torch.rand(B, 1, N, N, generator=pick) < 0.6
    if case.name in DECODERS:
        pairs = pairs.tril()
    pairs |= torch.eye(N, dtype=torch.bool)
    if case.mask == "pairs":
        return {"attention_mask": pairs}, real
    numbers = torch.zeros(B, 1, N, N).masked_fill(~pairs, torch.finfo(case.dtype).min)
    if case.mask == "bias":
        numbers = torch.where(pairs, -torch.rand(B, 1, N, N, generator=pick), numbers)
    return {"attention_mask": numbers.to(case.dtype)}, real


def forward(hf: Any, case: Case, call: Any = None, second: Any = None) -> Tensor:
    """Logits [rows, length, vocabulary], of a cache in two passes."""
    pick = torch.Generator().manual_seed(case.seed)
    ids = torch.randint(3, 99, (case.rows, case.length), generator=pick)
    given, _ = inputs(case)
    torch.manual_seed(case.seed)
    extra = {} if call is None else {"saa": call}
    if case.cache == "none":
        if case.name in DECODERS:
            extra["use_cache"] = False
        found: Tensor = hf(ids, **given, **extra)[0]
        return found
    cache: Any = DynamicCache(config=hf.config if case.cache == "its own" else None)
    if case.cache == "static":
        cache = StaticCache(hf.config, max_cache_len=case.length + 9)
    cut = max(1, case.length // 2)
    mask = given.get("attention_mask")
    parts = []
    for part, seen, own in ((ids[:, :cut], cut, call), (ids[:, cut:], case.length, second)):
        extra = {} if own is None else {"saa": own}
        if mask is not None:
            extra["attention_mask"] = mask[:, :seen]
        if part.shape[1]:
            parts.append(hf(part, past_key_values=cache, **extra)[0])
    return torch.cat(parts, 1)


class Judge(Call):
    """Compares layer by layer with exact attention, and goes on with the model's own: where rounding may
    send a token to other experts, what comes out at the end says nothing."""

    difference = 0.0

    def attend(self, module: nn.Module, handed: Any, dense: Any) -> Any:
        found = super().attend(module, handed, dense)[0].float()
        expected, _ = dense(True)
        seen = self._plan(module.saa_gate, handed).allowed.pairs.any(-1)[:, 0, :, None, None]
        error = ((found - expected) * seen).norm() / (expected * seen).norm()
        self.difference = max(self.difference, float(error))
        return dense()


def run(case: Case) -> Outcome:
    """Attached and not, with and without a policy."""
    try:
        hf: Any = make(
            case.name,
            implementation=case.implementation,
            dtype=case.dtype,
            seed=case.seed,
            **case.changes,
        ).train(case.training)
        with torch.no_grad():
            expected = forward(hf, case)
    except (ValueError, RuntimeError, TypeError, IndexError, NotImplementedError) as error:
        return Outcome("not run", f"{type(error).__name__}: {error}".splitlines()[0])
    try:
        saa.attach(hf)
        with torch.no_grad():
            again = forward(hf, case)
            if not torch.equal(again, expected) and not expected.isnan().any():
                return Outcome("wrong", "attached without a policy is not bit-equal")
            experts = EXPERTS.items() <= DECODERS.get(case.name, {}).items()
            judged = case.dtype != torch.float32 and (experts or case.name in JUDGED)
            calls: Any = [(Judge if judged else Call)(case.policy, case.record) for _ in range(2)]
            found = forward(hf, case, *calls)
    except saa.SAAError as error:
        return Outcome("refused", str(error))
    except Exception as error:  # whatever it is, it is a fault
        return Outcome("raw", f"{type(error).__name__}: {error}")
    _, real = inputs(case)
    if judged:
        return _judged(calls, case)
    apart = _distance(found, expected, real)
    if apart <= LIMITS[case.dtype]:
        return Outcome("equal", f"{apart:.2g}")
    if case.dtype != torch.float32 and _distance(expected, _in_float32(case), real) > apart:
        # The model's own rounding is larger: its end says nothing about ours.
        calls = [Judge(case.policy, case.record) for _ in range(2)]
        with torch.no_grad():
            forward(hf, case, *calls)
        return _judged(calls, case)
    return Outcome("wrong", f"{apart:.2g} apart")


def _judged(calls: Sequence[Judge], case: Case) -> Outcome:
    """By the layers, each of which was given what the model itself had."""
    apart = max(call.difference for call in calls)
    kind = "equal by layer" if apart <= LIMITS[case.dtype] else "wrong"
    return Outcome(kind, f"{apart:.2g} apart in a layer")


def _distance(found: Tensor, expected: Tensor, real: Tensor) -> float:
    """Norm of the difference, relative to what is expected, over the queries that are tokens."""
    difference = (found.float() - expected.float())[real]
    return float(difference.norm() / expected.float()[real].norm().clamp(min=1e-9))


def _in_float32(case: Case) -> Tensor:
    """What the very weights of a case give without the rounding of its number format."""
    hf: Any = make(
        case.name,
        implementation=case.implementation,
        dtype=case.dtype,
        seed=case.seed,
        **case.changes,
    )
    with torch.no_grad():
        return forward(hf.float(), replace(case, dtype=torch.float32))
