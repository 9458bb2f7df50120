"""Dense and SAA over a corpus, text by text, into the store; goes on where it was interrupted.

Each side of a text has an id that follows from what ran, so that what is stored already is passed over,
and a run that was killed ends with the rows of one that was not. Holds a handful of runs in memory,
however many texts there are.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from saa_core.audit.outcome import compare_with_dense
from saa_core.audit.texts import TokenizedText, tokenize
from saa_core.certify.degradation import baseline_for
from saa_core.certify.slices import slices_of
from saa_core.errors import PolicyError
from saa_core.model import Model, fingerprint
from saa_core.run.execute import execute
from saa_core.run.text import encode, trace_of
from saa_core.store import Store
from saa_core.trace.trace import Trace
from saa_core.types import Policy

BATCH, SECONDS = 64, 5.0
"""Texts, and time, after which what was run is stored at the latest: at most this is lost."""
LONGEST_NAME = 40
NAME = re.compile(rf"\w[\w.-]{{0,{LONGEST_NAME - 1}}}")


@dataclass(frozen=True)
class Done:
    """One text of an audit, stored.

    Args:
        run, dense: ids of its two runs.
        new: False if both were in the store already.
        audit: key of the audit.
    """

    run: str
    dense: str
    new: bool
    audit: str


class Audit:
    """Compares a policy with dense attention on any number of texts.

    Args:
        policy: not dense; it decides every text.
        name: of the audit, for people; together with model and policy it is the ``key``.
        baseline: the dense model to compare with; needed where ``model`` has an adapter.
        cut: cut texts to what the model takes, in place of refusing them.
        digests_of: :func:`digests`, or what remembers its answers.

    Raises:
        ModelError: the model is an encoder without a task, or needs another baseline.
        PolicyError: the name cannot be part of an id.
    """

    def __init__(
        self,
        model: Model,
        policy: Policy,
        store: Store,
        name: str,
        *,
        baseline: Model | None = None,
        cut: bool = False,
        digests_of: Callable[[Model], tuple[str, str]] | None = None,
    ) -> None:
        if NAME.fullmatch(name) is None:
            raise PolicyError(
                f"name={name!r} must begin with a letter or digit and hold only letters, digits and "
                ". _ -, 40 at most"
            )
        quantity = "perplexity" if model.task is None else "label_change"
        self.baseline = baseline_for(model, quantity, baseline)
        self.model, self.store, self.cut = model, store, cut
        self.policy = policy = policy.decided()
        known = digests if digests_of is None else digests_of
        decided, dense = known(model)
        if self.baseline is not model:
            _, dense = known(self.baseline)
        about = {name: value for name, value in asdict(policy).items() if name != "default_at"}
        asked = json.dumps(about, sort_keys=True)
        self.key = f"{name}-{_digest(asked, decided, dense)[:8]}"
        self._dense = dense[:8]

    def ids(self, text: str) -> tuple[str, str]:
        """Ids of a text's run with SAA and of its dense one, which audits of one model share."""
        content = _digest(text)[:16]
        return f"audit-{self.key}-{content}", f"dense-{self._dense}-{content}"

    def tokenize(self, text: str) -> TokenizedText:
        """A text as it will be run, cut where that is asked for.

        Raises:
            TextError: it is empty, not valid Unicode, or too long and is not to be cut.
        """
        return tokenize(self.model, text, self.cut)

    def over(
        self, texts: Iterable[str | TokenizedText], *, seconds: float = SECONDS
    ) -> Iterator[Done]:
        """Runs texts, in their order; each is stored when it comes out.

        Args:
            texts: those that :meth:`tokenize` has seen are not tokenized again.
            seconds: time after which what was run is stored and comes out, at the latest.

        Raises:
            TextError: see :meth:`tokenize`.
            StoreError: the store cannot be written.
        """
        waiting, done, since = dict[str, Trace](), list[Done](), time.monotonic()
        for text in texts:
            done.append(self._both(self.tokenize(text) if isinstance(text, str) else text, waiting))
            if len(done) >= BATCH or time.monotonic() - since > seconds:
                self._keep(waiting)
                yield from done
                waiting, done, since = {}, [], time.monotonic()
        self._keep(waiting)
        yield from done

    def _both(self, found: TokenizedText, waiting: dict[str, Trace]) -> Done:
        """Runs what is neither stored nor waiting to be."""
        run_id, dense_id = self.ids(found.text)
        missing = [r for r in (run_id, dense_id) if r not in waiting and r not in self.store]
        if dense_id in missing:
            # Final states are most of a summary's bytes, and no page reads them of a language model.
            waiting[dense_id] = replace(self._run(self.baseline, found, None), hidden=None)
        if run_id in missing:
            dense = waiting[dense_id] if dense_id in waiting else self.store.get(dense_id)
            trace = self._run(self.model, found, self.policy)
            audited = compare_with_dense(self.key, slices_of(found.text), dense, trace)
            waiting[run_id] = replace(trace, hidden=None, audited=audited)
        return Done(run_id, dense_id, bool(missing), self.key)

    def _run(self, model: Model, found: TokenizedText, policy: Policy | None) -> Trace:
        same = model.tokenizer is self.model.tokenizer
        encoded = found.encoded if same else encode(model, found.text)
        executed = execute(model, [encoded["input_ids"]], policy, "summary")
        return trace_of(model, found.text, encoded, executed)

    def _keep(self, waiting: dict[str, Trace]) -> None:
        if waiting:
            self.store.add_missing(waiting)


def _digest(*parts: str) -> str:
    return hashlib.sha256(
        json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()


def audit_name(*stems: str) -> str:
    """A name of an audit from those of its files, without what cannot be part of one."""
    return re.sub(r"[^\w.-]|^[.-]+", "", "_".join(stems))[:LONGEST_NAME] or "texts"


def digests(model: Model) -> tuple[str, str]:
    """Of all that a figure depends on, with gates and, of a dense run, without: name, weights, and how
    they are executed. Reads every weight once."""
    found = fingerprint(model)
    dense = _digest(model.spec.title, found.dtype, model.device.type, found.weights)
    return _digest(dense, found.gates), dense
