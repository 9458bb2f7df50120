"""Text -> continuation: the prompt is read under the policy, the steps after it read the whole cache."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from saa_core.errors import ModelError
from saa_core.model import Model
from saa_core.run.execute import Executed, execute
from saa_core.run.text import encode
from saa_core.types import Policy


def generate(
    model: Model, text: str, policy: Policy | None = None, *, max_new_tokens: int = 16
) -> Iterator[str]:
    """Continues a text greedily, piece by piece; the text itself is read under the policy.

    The prompt's attention is sparse, the steps after it read the whole key cache. Where sparsity gains no
    time (``Policy.fallback``) the prompt is read densely.

    Raises:
        TextError, ModelError, PolicyError: see :func:`saa_core.run`.
    """
    check_writes(model)
    ids = encode(model, text)["input_ids"]
    found = execute(model, [ids], policy, keep_cache=True, fall_back=True)
    yield from write_on(model, found, max_new_tokens)


def check_writes(model: Model) -> None:
    """Raises ModelError for an encoder."""
    if not model.causal:
        raise ModelError(f"model={model.spec.name!r} is an encoder; it does not write text")


def write_on(model: Model, prompt: Executed, max_new_tokens: int) -> Iterator[str]:
    """Goes on from a prompt that was executed with its cache kept, and uses that cache up: the keys and
    values of what is written are added to it.

    Raises:
        ModelError: the cache was not kept, or was used up.
    """
    written, shown = list[int](), ""
    for token in tokens_on(model, prompt, max_new_tokens):
        written.append(token)
        whole = model.tokenizer.decode(written)
        # Otherwise the rest of a character is still to come.
        if not whole.endswith("\N{REPLACEMENT CHARACTER}"):
            yield whole[len(shown) :]
            shown = whole


def likeliest(logits: Tensor) -> int:
    """The most likely token, of logits [V]."""
    return int(logits.argmax())


def tokens_on(
    model: Model,
    prompt: Executed,
    max_new_tokens: int,
    pick: Callable[[Tensor], int] = likeliest,
) -> Iterator[int]:
    """The same, token by token; one that ends a text is not among them.

    Args:
        pick: chooses a token from the logits [V] of the next one.

    Raises:
        ModelError: see :func:`write_on`.
    """
    if prompt.cache is None:
        raise ModelError("prompt has no cache; execute it with keep_cache=True")
    (length,) = prompt.lengths
    if prompt.cache.get_seq_length() != length:
        raise ModelError("prompt was written on before; execute it again")
    room = min(max_new_tokens, model.max_length - length)
    stop = model.hf.generation_config.eos_token_id
    stops = set(stop) if isinstance(stop, list) else {stop}
    cache = prompt.cache
    with torch.inference_mode():
        logits = model.hf.get_output_embeddings()(prompt.states[-1])
    for left in range(room, 0, -1):
        token = pick(logits)
        if token in stops:
            return
        yield token
        if left == 1:
            return
        step = torch.tensor([[token]], device=model.device)
        with torch.inference_mode():
            out = model.hf(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits = out.past_key_values, out.logits[0, -1]
