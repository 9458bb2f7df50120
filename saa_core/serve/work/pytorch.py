"""A model that PyTorch runs, as the server uses it: tokenizing, checking, labels, embeddings, a prompt."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from saa_core import rules
from saa_core.attention import Call
from saa_core.errors import ModelError, TextError
from saa_core.guard import Inspection
from saa_core.model import Model
from saa_core.run.classify import answers, predictions, token_ids
from saa_core.run.execute import Executed, execute
from saa_core.run.varlen import check_tokens, drops_tokens, packing_of, token_gates
from saa_core.serve.work.parts import Cancelling, NotFiniteError
from saa_core.types import Policy, Prediction


@dataclass(frozen=True)
class Embedded:
    """The embedding of one text, of length 1, and what a guard of its pass said.

    Args:
        why_dense: a label of ``saa_fallbacks_total``; None where it was not, or no policy was asked for.
    """

    vector: tuple[float, ...]
    tokens: int
    why_dense: str | None
    events: tuple[Mapping[str, Any], ...]


class PytorchModel:
    """Wraps a loaded model. Tokenizing has a tokenizer of its own, for a thread of its own."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._reader = replace(model, tokenizer=copy.deepcopy(model.tokenizer))
        self.kind = "task" if model.task is not None else "writer" if model.causal else "encoder"
        self.labels: tuple[str, ...] = () if model.task is None else model.task.labels
        self.title, self.gate = model.spec.title, model.spec.gate
        self.max_length = model.max_length
        self.longest = model.max_length if model.task is None else model.task.longest
        self.size = int(model.hf.config.hidden_size)
        self.policy = model.spec.policy
        self.trained = model.spec.trained or model.task is not None

    def encode(self, texts: Sequence[str], *, cut: bool) -> list[list[int]]:
        """Token ids of texts.

        Raises:
            TextError: a text is empty, not valid Unicode, or too long.
        """
        longest = self.longest if cut else None
        return [token_ids(self._reader, text, index, longest) for index, text in enumerate(texts)]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, up to where the answer begins.

        Raises:
            ModelError: the model was not made for conversations.
            TextError: it is too long, or the model's template refuses it.
        """
        tokenizer = self._reader.tokenizer
        if getattr(tokenizer, "chat_template", None) is None:
            raise ModelError(
                f"model={self.title!r} has no template for conversations; use /v1/completions"
            )
        try:
            written = tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # what a template raises is up to it
            raise TextError("messages do not fit the model's template") from error
        return token_ids(self._reader, written, 0, None)

    def check(self, policy: Policy) -> None:
        """Raises PolicyError where a policy cannot be used with this model."""
        Call(policy)
        gates = self.model.gates
        rules.check_layers(policy.force, gates[0].layers)
        if policy.tokens is not None:
            check_tokens(self.model, policy)
        elif policy.guard is not None and policy.guard.missed_mass is not None:
            Inspection(policy.guard, gates[0].layers, 1)

    def sound(self) -> bool:
        """Whether every number of the gates is one."""
        modules: list[torch.nn.Module] = list(self.model.gates)
        if drops_tokens(self.model):
            modules += [gate for gate in token_gates(packing_of(self.model)) if gate is not None]
        # The sum of what is finite is finite, and one pass over the numbers is all that it takes.
        sums = [p.detach().sum() for module in modules for p in module.parameters()]
        return bool(torch.stack(sums).sum().isfinite()) if sums else True

    def classify(
        self, ids: Sequence[Sequence[int]], policy: Policy | None, stop: Cancelling
    ) -> list[Prediction]:
        """Labels of a batch; None asks the reference model.

        Raises:
            NotFiniteError: a probability is no number.
        """
        model = self.model if policy is not None else self.model.reference_model
        given = {} if policy is None else {"fall_back": True}
        found = answers(model, ids, policy, batch=len(ids), cancelled=stop, **given)
        if not bool(found.probabilities.isfinite().all()):
            raise NotFiniteError("a probability is no number")
        task = self.model.task
        assert task is not None
        made = list(predictions(task, found))
        return made if policy is not None else [replace(each, dense=True) for each in made]

    def embed(
        self, ids: Sequence[Sequence[int]], policy: Policy | None, stop: Cancelling
    ) -> list[Embedded]:
        """Means of the final states, scaled to length 1.

        Texts run one by one where what is decided for one depends on where it stands in a batch or on how long
        the batch is: under a guard, under rules for positions, and where short ones are dense.

        Raises:
            NotFiniteError: a state is no number.
        """
        single = policy is not None and bool(
            policy.guard is not None or policy.force or policy.tail or policy.fallback == "dense"
        )
        parts = [[own] for own in ids] if single else [list(ids)]
        made = list[Embedded]()
        for part in parts:
            found = execute(self.model, part, policy, fall_back=True, cancelled=stop)
            means = found.means
            if not bool(means.isfinite().all()):
                raise NotFiniteError("an embedding holds numbers that are none")
            reason = why_dense(found) if policy is not None else None
            vectors = torch.nn.functional.normalize(means, dim=1).cpu().tolist()
            events = found.events
            made += [
                Embedded(tuple(vector), len(own), reason, events)
                for vector, own in zip(vectors, part, strict=True)
            ]
        return made

    def read(self, ids: Sequence[int], policy: Policy | None, stop: Cancelling) -> Executed:
        """Reads a prompt, to write on from.

        Raises:
            NotFiniteError: a state is no number.
        """
        found = execute(self.model, [ids], policy, keep_cache=True, fall_back=True, cancelled=stop)
        if not bool(found.states[-1].isfinite().all()):
            raise NotFiniteError("a state holds numbers that are none")
        return found

    def warm_up(self) -> None:
        """Runs a short text both ways, so that no request waits for what is only done once."""
        ids = self.encode(["Once more, from the beginning."], cut=True)

        def go_on() -> bool:
            return False

        for policy in (self.policy, None):
            if self.kind == "task":
                self.classify(ids, policy, go_on)
            elif self.kind == "encoder":
                self.embed(ids, policy, go_on)
            else:
                self.read(ids[0], policy, go_on)

    def digests(self) -> dict[str, str]:
        """Fingerprints of gates and weights, as sha256."""
        from saa_core.model import fingerprint

        found = fingerprint(self.model)
        return {"gates": found.gates, "weights": found.weights}


def why_dense(found: Executed) -> str | None:
    """Why a pass with a policy was dense, as a label of ``saa_fallbacks_total``."""
    if found.rejected is not None:
        return "guard"
    return "unprofitable" if found.dense_instead else None
