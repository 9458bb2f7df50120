"""Are the dense sides as good as full fine-tuning? They are what token dropping is compared with.

    python benchmarks/finetuning.py         # writes benchmarks/results/finetuning.json

Trains every weight of the encoder on a task's labels, for each learning rate given, as many batches of
the same texts as the shipped low-rank adapter was trained with; the rate is chosen on validation texts,
both accuracies are those on the test texts.
"""

import argparse
import time
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import saa_core as saa
from saa_core.files import write_json
from saa_core.packed import encode, packing_of
from saa_core.train import labelled
from saa_core.train.distil import schedule
from saa_core.train.evaluate import interval
from saa_core.train.masked import masked, mean_states, padded
from saa_core.train.tokens import Lot, lot, order

RESULTS = Path(__file__).parent / "results"
BATCH = 32


def means(model: saa.Model, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean final states [B, E], with gradients."""
    never = torch.zeros_like(mask)  # no token is special where none is dropped
    with torch.autocast(ids.device.type, torch.bfloat16):
        states, _ = masked(packing_of(model), never, ids, mask, 1.0, None)
    return mean_states(states, mask)


def right(model: saa.Model, head: nn.Linear, examples: Lot) -> list[float]:
    """1 per text that is right, else 0."""
    found = [0.0] * len(examples)
    rows = sorted(range(len(examples)), key=lambda row: len(examples.ids[row]))
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        encoded = encode(model, [examples.ids[row] for row in part])
        with torch.no_grad():
            best = head(encoded.means.clone()).argmax(-1).tolist()
        for row, label in zip(part, best, strict=True):
            found[row] = float(label == examples.labels[row])
    return found


def full(name: str, rate: float, config: dict[str, Any], lots: dict[str, Lot], labels: int) -> Any:
    """Fine-tunes every weight; returns what was right on validation and on test texts."""
    model = saa.load(name, device="cpu")
    torch.manual_seed(config["seed"])
    head = nn.Linear(int(model.hf.config.hidden_size), labels)
    for module in (layer.module for layer in packing_of(model).layers):
        module.requires_grad_(True)
    for gate in model.gates:
        gate.requires_grad_(False)
    body = [p for p in model.hf.parameters() if p.requires_grad]
    groups = [{"params": body, "highest": rate}]
    groups += [{"params": list(head.parameters()), "highest": config["rate"]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    train, steps = lots["train"], config["steps"][0]
    for index, rows in enumerate(order(train, config["batch"], steps, config["seed"])):
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * schedule(index / steps)
        optimizer.zero_grad(set_to_none=True)
        ids, mask = padded([train.ids[row] for row in rows], model)
        truth = torch.tensor([train.labels[row] for row in rows])
        cross_entropy(head(means(model, ids, mask)), truth).backward()
        nn.utils.clip_grad_norm_([*body, *head.parameters()], 1.0)
        optimizer.step()
    return [right(model, head, lots[split]) for split in ("validation", "test")]


def measure(task: str, options: argparse.Namespace) -> dict[str, Any]:
    dense = saa.load(options.model, task=task, side="dense", device="cpu")
    about = dense.task
    assert about is not None
    config = dict(about.training["config"])
    if options.steps:
        config["steps"] = [options.steps]
    source = options.data or about.name
    known = labelled.read(source)
    lots = {}
    for split in ("train", "validation", "test"):
        own = [row for row in known if row.split == split][: about.training["texts"][split]]
        index = [about.labels.index(row.label) for row in own]
        lots[split] = lot(dense, [row.text for row in own], index, about.longest)
    started = time.perf_counter()
    tried = {}
    for rate in options.rates:
        tried[rate] = full(options.model, rate, config, lots, len(about.labels))
        print(f"{about.name} rate {rate:g}: {mean(tried[rate][0]):.3f} on validation", flush=True)
    best = max(tried, key=lambda rate: mean(tried[rate][0]))
    adapter, whole = right(dense, about.head, lots["test"]), tried[best][1]
    lo, hi = interval([a - b for a, b in zip(adapter, whole, strict=True)])
    row = {
        "task": about.name,
        "texts": len(adapter),
        "steps": config["steps"][0],
        "adapter_accuracy": mean(adapter),
        "full_accuracy": mean(whole),
        "difference_lo": lo,
        "difference_hi": hi,
        "rate": best,
        "validation": {f"{rate:g}": mean(found[0]) for rate, found in tried.items()},
        "seconds": time.perf_counter() - started,
    }
    print(
        f"{about.name}: adapter {100 * row['adapter_accuracy']:.1f} %, full fine-tuning "
        f"{100 * row['full_accuracy']:.1f} %, difference {100 * lo:+.1f} to {100 * hi:+.1f}"
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--tasks", nargs="+", default=["sentences"], help="names or folders")
    parser.add_argument("--data", help="a table, for a task of one's own")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-5, 1e-4, 2e-4])
    parser.add_argument("--steps", type=int, help="batches; as many as the adapter by default")
    parser.add_argument("--out", type=Path, default=RESULTS / "finetuning.json")
    options = parser.parse_args()
    write_json(options.out, [measure(task, options) for task in options.tasks])


if __name__ == "__main__":
    main()
