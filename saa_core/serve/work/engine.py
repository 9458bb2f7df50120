"""An exported folder, as the server uses it. Needs no PyTorch."""

import math
from collections.abc import Sequence
from dataclasses import replace

from saa_core.errors import PolicyError
from saa_core.export.engine import Engine, open_engine
from saa_core.serve.work.parts import Cancelling, NotFiniteError
from saa_core.types import Guard, Policy, Prediction


class EngineModel:
    """Wraps an opened engine: one task, and its reference for dense answers."""

    kind = "task"
    trained = True

    def __init__(self, folder: str, threads: int | None) -> None:
        self.engine: Engine = open_engine(folder, threads=threads)
        about = self.engine.about
        self.labels, self.title, self.gate = about.labels, about.title, about.gate
        self.max_length, self.longest, self.size = about.max_length, about.longest, about.hidden
        guard = Guard(missed_mass=None, margin=about.margin) if about.margin else None
        self.policy = Policy(mass=1.0, tokens=about.share, guard=guard)

    def encode(self, texts: Sequence[str], *, cut: bool) -> list[list[int]]:
        """Token ids of texts; see :meth:`saa_core.export.engine.Engine.encode`."""
        return self.engine.encode(texts, cut=cut)

    def check(self, policy: Policy) -> None:
        """Raises PolicyError where the folder cannot follow a policy: it knows tokens and a margin."""
        own = replace(policy, tokens=self.policy.tokens, guard=None)
        if own != replace(self.policy, guard=None):
            raise PolicyError(
                f"an exported model follows tokens and a guard's margin, and nothing else: {policy}"
            )
        self.engine.settings(*self._settings(policy))

    def sound(self) -> bool:
        """True: the files are those that were written, and what comes out is checked."""
        return True

    def classify(
        self, ids: Sequence[Sequence[int]], policy: Policy | None, stop: Cancelling
    ) -> list[Prediction]:
        """Labels of a batch; None asks the reference."""
        if policy is None:
            return self.engine.predict_dense(ids)
        found = self.engine.predict(ids, *self._settings(policy))
        if not all(math.isfinite(p) for each in found for p in each.probabilities.values()):
            raise NotFiniteError("a probability is no number")
        return found

    def warm_up(self) -> None:
        """Runs a short text both ways."""
        ids = self.encode(["Once more, from the beginning."], cut=True)
        for policy in (self.policy, None):
            self.classify(ids, policy, lambda: False)

    def digests(self) -> dict[str, str]:
        """Fingerprints of what was exported, as the folder says."""
        sides = self.engine.about.fingerprints
        own = sides.get("sparse", {})
        return {name: str(own.get(name, "")) for name in ("gates", "weights")}

    @staticmethod
    def _settings(policy: Policy) -> tuple[float, float]:
        return policy.tokens or 1.0, 0.0 if policy.guard is None else policy.guard.margin
