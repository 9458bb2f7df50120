"""What Transformers hands to an attention function: read as the model means it, or refused by name.

The dense attention that a model had says what an argument means, so it is read in that one's terms:

    argument             sdpa                                    eager
    attention_mask       bool, or numbers added to scores        numbers added to scores
    no attention_mask    causal if is_causal or the module       every query sees every key
                         says so; keys behind the queries
                         (an empty static cache) are cut off
    scaling              given, or 1 / sqrt(head size)           the same
    dropout              applied as it is given                  applied while the module trains
    position_bias        added to scores                         the same, where the model knows it
    softcap              refused                                 applied, where the model knows it
    s_aux                nothing (as Transformers does)          the module's sinks

Whatever else a model passes (position_ids, sliding_window, cu_seq_lens_q, ...) the dense attention
ignores, because its mask holds it; so it is ignored here. What eager attention of a model is known to
use and is not listed is refused.

Shapes: B batch, H query heads, G key/value heads, Q, K positions, D head size.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from saa_core.errors import ModelError
from saa_core.exact import Softmax

NO_WEIGHT = -9000.0
"""A pair whose score is lowered by this much or more has no weight, in every number format; it is
forbidden. Transformers uses the lowest number of the format, some people -10,000."""
TENSORS = {"module", "query", "key", "value", "query_states", "key_states", "value_states"}
READ = TENSORS | {"attention_mask", "scaling", "dropout", "position_bias", "softcap"}
IN_THE_MASK = {"sliding_window"}
"""Named by some eager attentions, which then do nothing with them."""


@dataclass(frozen=True, eq=False)
class View:
    """Which keys the queries see, from one mask.

    Args:
        keys: so many that anybody may see: those behind them, a static cache's empty slots, are cut.
        visible: bool [B, 1, Q, K]; None where ``causal`` alone says it.
        causal: no query sees a later key.
        bias: what the mask adds to the scores of visible pairs, [1 or B, 1 or H, Q, K]; None is nothing.
        source: the mask, held so that its id stays its own.
    """

    keys: int
    visible: Tensor | None
    causal: bool
    bias: Tensor | None
    source: Any


Views = dict[tuple[int, tuple[int, ...], int, bool], View]
"""What was read of the masks of one call, since layers share them."""


@dataclass(frozen=True, eq=False)
class Handed:
    """Everything that one layer's attention depends on.

    Args:
        q, k, v: [B, H, Q, D], [B, G, K, D] and [B, G, K, size of a value].
        asks_weights: the attention weights are wanted as well.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    view: View
    scale: float
    softmax: Softmax
    asks_weights: bool


def read(
    eager: Callable[..., Any] | None,
    module: nn.Module,
    tensors: tuple[Tensor, Tensor, Tensor],
    attention_mask: Any,
    given: Mapping[str, Any],
    views: Views,
) -> Handed:
    """What the arguments of an attention function mean.

    Args:
        eager: the model's own eager attention where that is what it has; None is PyTorch's (sdpa).
        tensors: query, key and value.
        given: all other keyword arguments.
        views: of this call.

    Raises:
        ModelError: an argument cannot be honoured; names it.
    """
    q, k, v = tensors
    _refuse(eager, module, q, k, given)
    view = _view(eager is not None, module, q, k, attention_mask, given.get("is_causal"), views)
    k, v = k[:, :, : view.keys], v[:, :, : view.keys]
    bias = view.bias
    position_bias = given.get("position_bias")
    if position_bias is not None:
        position_bias = position_bias[..., : view.keys].float()
        bias = position_bias if bias is None else bias + position_bias
    scaling = given.get("scaling")
    training = eager is None or module.training
    softmax = Softmax(
        softcap=None if given.get("softcap") is None else float(given["softcap"]),
        bias=bias,
        sinks=None if eager is None else _sinks(module),
        dropout=float(given.get("dropout") or 0.0) if training else 0.0,
    )
    config: Any = getattr(module, "config", None)
    asked = given.get("output_attentions")
    if asked is None:
        asked = getattr(config, "output_attentions", False)
    return Handed(
        *(q, k, v, view),
        scale=q.shape[-1] ** -0.5 if scaling is None else float(scaling),
        softmax=softmax,
        asks_weights=bool(asked) and eager is not None,
    )


def eager_attention(module: nn.Module) -> Callable[..., Any]:
    """The eager attention of the file that a module's class, or one that it is derived from, is in.

    Raises:
        ModelError: there is none.
    """
    for kind in type(module).__mro__:
        found = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    raise ModelError(
        f"hf: {type(module).__name__} has no eager_attention_forward beside it, so what its eager "
        "attention computes is not known; load it with attn_implementation='sdpa'"
    )


@cache
def _parameters(eager: Callable[..., Any]) -> frozenset[str]:
    return frozenset(
        name
        for name, parameter in inspect.signature(eager).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    )


def _refuse(
    eager: Callable[..., Any] | None,
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    given: Mapping[str, Any],
) -> None:
    """Raises ModelError for an argument that the dense attention uses and SAA cannot."""
    present = {name for name, value in given.items() if value is not None}
    if "cache" in present:
        raise ModelError(
            "cache: a paged cache (continuous batching) cannot be read under a policy; generate with "
            "the default cache"
        )
    if eager is None:
        if "softcap" in present:
            raise ModelError(
                f"softcap={given['softcap']!r}: sdpa attention has no soft caps; load the model with "
                "attn_implementation='eager'"
            )
    else:
        unknown = (present & _parameters(eager)) - READ - IN_THE_MASK
        if unknown:
            raise ModelError(
                f"{', '.join(sorted(unknown))}: eager attention of {type(module).__name__} uses it, and "
                f"SAA knows only: {', '.join(sorted(READ - TENSORS))}; call without saa="
            )
        for name in ("softcap", "position_bias"):
            if name in present and name not in _parameters(eager):
                raise ModelError(
                    f"{name}: eager attention of {type(module).__name__} ignores it; leave it out"
                )
    if q.shape[0] != k.shape[0]:
        raise ModelError(
            f"query and key are of {q.shape[0]} and {k.shape[0]} texts; give both alike"
        )


def _sinks(module: nn.Module) -> Tensor | None:
    """The score of each head's attention sink, [H], as eager attention reads it off the module."""
    sinks = getattr(module, "sinks", None)
    return sinks.flatten() if isinstance(sinks, Tensor) else None


def _view(
    eager: bool,
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    mask: Any,
    is_causal: bool | None,
    views: Views,
) -> View:
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    B, H, Q, _ = q.shape
    K = k.shape[2]
    key = (id(mask), (B, H, Q), K, is_causal)
    if key not in views:
        views[key] = (
            _unmasked(eager, Q, K, is_causal)
            if mask is None
            else _masked(eager, mask, (B, H, Q, K))
        )
    return views[key]


def _unmasked(eager: bool, Q: int, K: int, is_causal: bool) -> View:
    causal = is_causal and not eager and Q > 1
    return View(Q if causal and K > Q else K, None, causal, None, None)


def _masked(eager: bool, mask: Any, shape: tuple[int, int, int, int]) -> View:
    B, H, Q, K = shape
    if not isinstance(mask, Tensor):
        raise ModelError(
            f"attention_mask is a {type(mask).__name__}; give a tensor, or load the model with "
            "attn_implementation='sdpa'"
        )
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ModelError(
            f"attention_mask has {mask.ndim} dimensions of {mask.dtype}; give bool or floating-point "
            "numbers [batch, heads or 1, queries, keys], or 0 and 1 as [batch, tokens]"
        )
    if mask.dtype == torch.bool and eager:
        raise ModelError(
            "attention_mask is boolean, which eager attention adds to scores as 0 and 1; give numbers to "
            "add (0 and the lowest of the format), or load the model with attn_implementation='sdpa'"
        )
    source = mask
    while mask.ndim < 4:
        mask = mask[None]
    if any(has not in (1, wanted) for has, wanted in zip(mask.shape, shape, strict=True)):
        raise ModelError(
            f"attention_mask of shape {tuple(mask.shape)} does not fit {B} texts, {H} heads, {Q} queries "
            f"and {K} keys; give [batch or 1, heads or 1, queries or 1, keys or 1]"
        )
    mask = mask.expand(-1, -1, Q, K)
    visible, bias = _split(mask)
    keys = K
    if K > Q:  # a cache: what lies behind the last key that anybody sees is no text
        seen = visible.flatten(0, 2).any(0).nonzero()
        keys = max(Q, int(seen[-1]) + 1 if len(seen) else 0)
        visible = visible[..., :keys]
        bias = None if bias is None else bias[..., :keys]
    return View(keys, visible.expand(B, 1, Q, keys), False, bias, source)


def _split(mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Which pairs a mask lets be, bool [1 or B, 1, Q, K], and what it adds to their scores."""
    visible = mask if mask.dtype == torch.bool else mask > NO_WEIGHT
    if visible.shape[1] > 1 and not bool((visible == visible[:, :1]).all()):
        raise ModelError(
            "attention_mask forbids other pairs in one head than in another; SAA decides among pairs "
            "that all heads may see. Call without saa=, or give a mask that all heads share"
        )
    bias = None
    if mask.dtype != torch.bool:
        added = mask.float().masked_fill(~visible, 0.0)
        if bool(mask.isnan().any()) or bool(added.isinf().any()):
            raise ModelError(
                "attention_mask holds NaN or +infinity; give finite numbers and -infinity"
            )
        if bool((added != 0).any()):
            bias = added
    return visible[:, :1], bias
