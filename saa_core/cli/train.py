"""Commands that train a language model's gates: ``train`` and ``joint``."""

import argparse
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from saa_core.cli.models import load_model
from saa_core.cli.options import data_option, listed, model_options, seed_option
from saa_core.errors import TextError
from saa_core.files import dump_json
from saa_core.train.config import CANDIDATES, JointConfig, TrainConfig

if TYPE_CHECKING:
    from saa_core.data.corpus import Document
    from saa_core.model import Model
    from saa_core.train.distil import TrainStep
    from saa_core.train.evaluate import EncoderQuality
    from saa_core.train.joint import JointStep

RECENT = 20
"""Windows of a kind over which its loss is averaged."""
Step = TypeVar("Step", "TrainStep", "JointStep")


def train(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    model_options(command)
    data_option(
        command, "the training part trains, the held-out part is evaluated on", "every kind"
    )
    command.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="KIND",
        help="kinds of text that are not trained on, only evaluated on; a file is a kind of its own "
        "(default: none)",
    )
    _shared(command, TrainConfig(), "the trained gates")
    command.add_argument(
        "--fresh",
        action="store_true",
        help="start from new gates (default: from the model's trained ones)",
    )
    command.add_argument(
        "--windows",
        type=int,
        default=4,
        metavar="N",
        help="held-out windows per kind to evaluate on (default: %(default)s)",
    )
    command.set_defaults(run=_train)


def joint(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    model_options(command)
    data_option(command, "the training part is used")
    config = JointConfig()
    _shared(command, config, "the adapter and its gates")
    command.add_argument(
        "--rank",
        type=int,
        default=config.rank,
        metavar="N",
        help="rank of the adapter (default: %(default)s)",
    )
    command.add_argument(
        "--masses",
        type=float,
        nargs=2,
        default=list(config.masses),
        metavar=("LOWEST", "HIGHEST"),
        help="range that the mass of a window is drawn from, shares over 0 to 1 "
        f"(default: {listed(config.masses)})",
    )
    command.add_argument(
        "--hard",
        type=int,
        default=config.hard,
        metavar="N",
        help="positions per window that are learned from because sparse and dense differ most there, "
        f"0 to {CANDIDATES} (default: %(default)s)",
    )
    command.add_argument(
        "--start",
        metavar="FOLDER",
        help="folder of an adapter, with its gates, to go on from (default: none)",
    )
    command.add_argument(
        "--recompute",
        action="store_true",
        help="compute activations again on the way back, not hold them: less memory, more time (default: hold them)",
    )
    command.set_defaults(run=_joint)


def _shared(
    command: argparse.ArgumentParser, config: TrainConfig | JointConfig, written: str
) -> None:
    """Options of both kinds of training, with the defaults of this one."""
    command.add_argument(
        "--out", required=True, metavar="FOLDER", help=f"where to write {written}; required"
    )
    command.add_argument(
        "--steps",
        type=int,
        default=config.steps,
        metavar="N",
        help="windows to train on, those before a checkpoint included (default: %(default)s)",
    )
    command.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=list(config.lengths),
        metavar="TOKENS",
        help="window lengths, drawn at random; one that is named twice comes twice as often "
        f"(default: {listed(config.lengths)})",
    )
    command.add_argument(
        "--rate",
        type=float,
        default=config.rate,
        metavar="X",
        help="highest learning rate (default: %(default)s)",
    )
    command.add_argument(
        "--pooled",
        type=int,
        metavar="QUERIES",
        help="neighbouring queries that share one row of scores (default: as the gates have it)",
    )
    seed_option(command)
    command.add_argument(
        "--checkpoint", metavar="FOLDER", help="folder to resume from (default: OUT/checkpoint)"
    )


def _train(options: argparse.Namespace) -> None:
    config = TrainConfig(
        steps=options.steps,
        lengths=tuple(options.lengths),
        rate=options.rate,
        pooled=options.pooled,
        seed=options.seed,
        checkpoint=options.checkpoint or str(Path(options.out) / "checkpoint"),
    )
    import torch

    from saa_core.attach import attach, detach, save_gates
    from saa_core.cli.bars import Bars
    from saa_core.data import corpus
    from saa_core.train.distil import train_gates

    torch.manual_seed(options.seed)
    with Bars() as bars:
        sources = options.data or corpus.default_sources()
        documents = corpus.documents(sources, bars, options.leave_out)
    texts = corpus.join_documents(documents, "train", by="kind")
    if not texts:
        raise TextError("data: nothing is left to train on; name a text that is not left out")
    model = load_model(options, training=True)
    if options.fresh:
        fresh = attach(detach(model), model.tokenizer)
        named = replace(fresh.spec, name=options.model, adapter=model.spec.adapter)
        model = replace(fresh, spec=named)
    losses: dict[str, list[float]] = {}
    for step, bar in _logged(train_gates(model, texts, config), config):
        bar.set_postfix(loss=f"{step.loss:.3f}", density=f"{step.density:.2f}")
        losses.setdefault(step.source, []).append(step.loss)
    for line in loss_by_kind(losses):
        print(line)
    held_out = corpus.join_documents(documents, "heldout", by="kind")
    evaluation = _evaluated(model, held_out, config, options.windows)
    training = _provenance(model, options.command, config, documents)
    folder = save_gates(model, options.out, training=training, evaluation={"quality": evaluation})
    print(f"gates: {folder}")


def _joint(options: argparse.Namespace) -> None:
    config = JointConfig(
        steps=options.steps,
        lengths=tuple(options.lengths),
        rank=options.rank,
        rate=options.rate,
        masses=tuple(options.masses),
        hard=options.hard,
        pooled=options.pooled,
        start=options.start,
        recompute=options.recompute,
        seed=options.seed,
        checkpoint=options.checkpoint or str(Path(options.out) / "checkpoint"),
    )
    from saa_core.cli.bars import Bars
    from saa_core.data import corpus
    from saa_core.train.joint import save_adapter, train_joint

    with Bars() as bars:
        documents = corpus.documents(options.data, bars)
    texts = corpus.join_documents(documents, "train", by="kind")
    model = load_model(options)
    for step, bar in _logged(train_joint(model, texts, config), config):
        bar.set_postfix(divergence=f"{step.divergence:.4f}", gate=f"{step.gate_loss:.3f}")
    training = _provenance(model, options.command, config, documents)
    print(f"adapter: {save_adapter(model, options.out, training=training)}")


def _logged(
    steps: "Iterable[Step]", config: TrainConfig | JointConfig
) -> "Iterator[tuple[Step, Any]]":
    """Each step with the bar that shows it; all go to log.jsonl beside the checkpoint."""
    from saa_core.cli.bars import bar

    assert config.checkpoint is not None
    log = Path(config.checkpoint) / "log.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as lines, bar(config.steps, "step") as shown:
        for step in steps:
            lines.write(dump_json(asdict(step)) + "\n")
            lines.flush()
            shown.n = step.step
            yield step, shown


def loss_by_kind(losses: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """A table: of each kind of text the windows, and the mean loss of the first and last RECENT."""
    if losses:
        width = max(map(len, ("kind", *losses)))
        yield f"{'kind':{width}}  windows  loss at first  at last (nats, means of {RECENT})"
        for kind, found in sorted(losses.items()):
            first, last = (sum(part) / len(part) for part in (found[:RECENT], found[-RECENT:]))
            yield f"{kind:{width}}  {len(found):7}  {first:13.3f}  {last:7.3f}"


def _evaluated(
    model: "Model", texts: dict[str, str], config: TrainConfig, windows: int
) -> list[dict[str, Any]]:
    """Held-out figures of freshly trained gates, printed and returned."""
    from saa_core.train.evaluate import Quality, evaluate, evaluate_encoder

    rows: list[Quality | EncoderQuality] = []
    length = min(1024, max(config.lengths))
    for name, text in texts.items():
        if len(model.tokenize(text)) < length:
            continue
        measured = evaluate if model.causal else evaluate_encoder
        rows += measured(model, text, name, length, [model.spec.policy], windows=windows)
    for row in rows:
        moved = (
            f"perplexity {row.ppl_increase_pct:+.2f} %"
            if isinstance(row, Quality)
            else f"embedding cosine {row.cosine:.4f}"
        )
        print(
            f"{row.text}: {row.length} tokens, density {row.density:.2f}, {moved} "
            f"({row.lo:.4g} to {row.hi:.4g}), {row.windows} windows"
        )
    return [asdict(row) for row in rows]


def _provenance(
    model: "Model",
    command: str,
    config: TrainConfig | JointConfig,
    documents: "Sequence[Document]",
) -> dict[str, Any]:
    """How gates came about, with the hash of each source's training part: stored with them."""
    from saa_core.data.corpus import join_documents

    texts = join_documents(documents, "train")
    found: dict[str, Any] = {
        "command": command,
        "config": asdict(config) | {"checkpoint": None},
        "data_sha256": {
            source: hashlib.sha256(text.encode()).hexdigest() for source, text in texts.items()
        },
    }
    if model.spec.training:
        found["continues"] = dict(model.spec.training)
    return found
