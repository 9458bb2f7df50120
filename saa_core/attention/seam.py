"""The one function that Transformers calls in place of its attention.

A forward without ``saa=`` goes to the implementation that the model had before. What the arguments of
that function mean is read in families/arguments.py.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from saa_core.attention.call import Call
from saa_core.errors import ModelError, PolicyError
from saa_core.families import is_cross_attention
from saa_core.families.arguments import eager_attention, read

PREFIX = "saa_"


class Name(str):
    """The name of an attention implementation with SAA in it, which its configuration takes for the base.

    Modelling files and configurations ask for ``"eager"`` or ``"sdpa"`` to decide on masks, on
    ``output_attentions``, on what may be saved; they go on to find what was there before. The registry
    looks names up by their hash, which is the name's own. Where there is a name there is an entry: also
    in a process that has only loaded an attached model.
    """

    def __new__(cls, value: str) -> "Name":
        register()
        return super().__new__(cls, value)

    @property
    def base(self) -> str:
        return str(self).removeprefix(PREFIX)

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True or self.base == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return str.__hash__(self)


def _eager(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """The eager attention of the module's own modelling file."""
    result: tuple[Tensor, Tensor | None]
    if getattr(module, "saa_upcast", False):  # GPT-2 may go another way (see attach)
        mask = args[3] if len(args) > 3 else kwargs.get("attention_mask")
        result = module._upcast_and_reordered_attn(*args[:3], mask)  # type: ignore[operator]
        return result
    result = eager_attention(module)(module, *args, **kwargs)
    return result


BASES = ("eager", "sdpa")
"""Attention implementations that a model may have when SAA is attached."""


def _make(
    original: Callable[..., tuple[Tensor, Tensor | None]],
) -> Callable[..., tuple[Tensor, Tensor | None]]:

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        saa: Call | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        def dense(exact: bool = False) -> tuple[Tensor, Tensor | None]:
            if not exact:
                return original(module, query, key, value, attention_mask, **kwargs)
            mask = attention_mask
            if mask is not None and mask.is_floating_point():
                mask = mask.float()
            return original(module, query.float(), key.float(), value.float(), mask, **kwargs)

        if saa is None:
            return dense()
        check_call(saa)
        if not hasattr(module, "saa_gate"):
            if is_cross_attention(module):
                return dense()
            raise ModelError(
                f"saa=: an attention of {type(module).__name__} has no gate; call saa_core.attach on "
                "this model first"
            )
        own = eager_attention(module) if original is _eager else None
        heads = (query, key, value)
        handed = read(own, module, heads, attention_mask, kwargs, saa._views)
        out, weights = saa.attend(module, handed, dense)
        return out.contiguous(), weights

    return attention


def check_call(saa: object) -> None:
    """Raises where ``saa=`` is nothing that one forward can follow."""
    if not isinstance(saa, Call):
        raise ModelError(f"saa={saa!r} must be a saa_core.Call, for example Call(Policy())")
    if saa.policy is not None and saa.policy.tokens is not None:
        raise PolicyError(
            f"tokens={saa.policy.tokens!r}: inside a model's own forward no token can be dropped; "
            "use saa_core.run or saa_core.run.classify"
        )


def register() -> None:
    """Makes the attention known to Transformers, with its mask: without one, causality is lost."""
    # Here: they take longer to import than PyTorch, and a policy or a call needs none of them.
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import eager_mask, sdpa_mask

    implementations: tuple[tuple[Callable[..., Any], Callable[..., Any]], ...] = (
        (_eager, eager_mask),
        (sdpa_attention_forward, sdpa_mask),
    )
    for base, (function, mask) in zip(BASES, implementations, strict=True):
        AttentionInterface.register(PREFIX + base, _make(function))
        AttentionMaskInterface.register(PREFIX + base, mask)
