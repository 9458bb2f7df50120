"""Are the reference models as good as full fine-tuning? They are what token dropping is compared with.

    python -m benchmarks.quality.finetuning         # writes benchmarks/results/finetuning.json

Trains every weight of the encoder, embeddings included, on a task's labels, for each learning rate and
seed given, as many batches of the same texts as the shipped low-rank adapter was trained with; the rate
is chosen on validation texts, the accuracies are those on the test texts. Seeds differ by more than a
point, so the mean over them is what the adapter is compared with.
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
from saa_core.data import labelled
from saa_core.files import write_json
from saa_core.loading import bfloat16_is_fast
from saa_core.run.varlen import encode_all, packing_of
from saa_core.train.batches import TokenizedTexts, order, pad_batch, tokenize_texts
from saa_core.train.distil import schedule
from saa_core.train.evaluate import interval
from saa_core.train.masked import forward_masked, mean_states

RESULTS = Path(__file__).parent.parent / "results"


def means(model: saa.Model, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean final states [B, E], with gradients."""
    never = torch.zeros_like(mask)  # no token is special where none is dropped
    half = bfloat16_is_fast(ids.device)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=half):
        states, _ = forward_masked(packing_of(model), never, ids, mask, 1.0, None)
    return mean_states(states, mask)


def right(model: saa.Model, head: nn.Linear, examples: TokenizedTexts) -> list[float]:
    """1 per text that is right, else 0."""
    states, _ = encode_all(model, examples.ids)
    with torch.no_grad():
        best = head(states).argmax(-1)
    return (best == torch.tensor(examples.labels)).float().tolist()


def full(
    name: str,
    rate: float,
    seed: int,
    config: dict[str, Any],
    lots: dict[str, TokenizedTexts],
    labels: int,
) -> tuple[list[float], list[float]]:
    """Fine-tunes every weight; returns what was right on validation and on test texts."""
    model = saa.load(name, device="cpu")
    torch.manual_seed(seed)
    head = nn.Linear(int(model.hf.config.hidden_size), labels)
    for module in (layer.module for layer in packing_of(model).layers):
        module.requires_grad_(True)
    for gate in model.gates:
        gate.requires_grad_(False)
    body = [p for p in model.hf.parameters() if p.requires_grad]
    groups = [{"params": body, "highest": rate}]
    groups += [{"params": list(head.parameters()), "highest": config["adapter_rate"]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    train, steps = lots["train"], config["steps"][0]
    for index, rows in enumerate(order(train, config["batch"], steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * schedule(index / steps)
        optimizer.zero_grad(set_to_none=True)
        ids, mask = pad_batch([train.ids[row] for row in rows], model)
        truth = torch.tensor([train.labels[row] for row in rows])
        cross_entropy(head(means(model, ids, mask)), truth).backward()
        nn.utils.clip_grad_norm_([*body, *head.parameters()], 1.0)
        optimizer.step()
    validation, test = (right(model, head, lots[split]) for split in ("validation", "test"))
    return validation, test


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
        lots[split] = tokenize_texts(dense, [row.text for row in own], index, about.longest)
    started = time.perf_counter()
    tried: dict[float, list[tuple[list[float], list[float]]]] = {}
    for rate in options.rates:
        tried[rate] = []
        for seed in options.seeds:
            found = full(options.model, rate, seed, config, lots, len(about.labels))
            tried[rate].append(found)
            print(
                f"{about.name} rate {rate:g} seed {seed}: {mean(found[0]):.3f} on validation, "
                f"{mean(found[1]):.3f} on test texts",
                flush=True,
            )
    chosen = {rate: mean(mean(own) for own, _ in found) for rate, found in tried.items()}
    best = max(chosen, key=lambda rate: chosen[rate])
    adapter = right(dense, about.head, lots["test"])
    whole = [mean(each) for each in zip(*(test for _, test in tried[best]), strict=True)]
    lo, hi = interval([a - b for a, b in zip(adapter, whole, strict=True)])
    row = {
        "task": about.name,
        "texts": len(adapter),
        "steps": config["steps"][0],
        "adapter_accuracy": mean(adapter),
        "full_accuracy": mean(whole),
        "full_accuracies": [mean(test) for _, test in tried[best]],
        "seeds": list(options.seeds),
        "difference_lo": lo,
        "difference_hi": hi,
        "rate": best,
        "validation": {f"{rate:g}": value for rate, value in chosen.items()},
        "seconds": time.perf_counter() - started,
    }
    print(
        f"{about.name}: adapter {100 * row['adapter_accuracy']:.1f} %, full fine-tuning "
        f"{100 * row['full_accuracy']:.1f} % (mean of {len(options.seeds)} seeds), difference "
        f"{100 * lo:+.1f} to {100 * hi:+.1f}"
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--tasks", nargs="+", default=["sentences"], help="names or folders")
    parser.add_argument("--data", help="a table, for a task of one's own")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-5, 1e-4, 2e-4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="batches; as many as the adapter by default")
    parser.add_argument("--out", type=Path, default=RESULTS / "finetuning.json")
    options = parser.parse_args()
    write_json(options.out, [measure(task, options) for task in options.tasks])


if __name__ == "__main__":
    main()
