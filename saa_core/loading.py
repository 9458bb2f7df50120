"""From a name to a model with gates: pinned aliases, hub ids, folders; adapters and tasks merged in."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from saa_core.attach import attach
from saa_core.convert.gguf import quiet_transformers
from saa_core.data import fetch
from saa_core.data.titles import parts_of
from saa_core.errors import ModelError, choice
from saa_core.families import family_named
from saa_core.gates.files import read_gates
from saa_core.model import Model
from saa_core.task import SIDES, put_task, read_task
from saa_core.types import StepProgress


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    gates: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    task: str | os.PathLike[str] | None = None,
    side: Literal["auto", "sparse", "dense"] = "auto",
    progress: StepProgress | None = None,
) -> Model:
    """Loads a model and attaches gates; fetches a pinned model once if it is missing.

    Args:
        name: an alias of assets/models.toml, a hub id or a local folder; an alias also with the adapter
            or task that ships for it: "smollm2 + saa-joint".
        device: "auto" (cuda, mps or cpu), or a device that torch knows.
        dtype: of the weights; float32 on a CPU and bfloat16 elsewhere by default.
        gates: folder of trained gates. By default those shipped for an alias; a hub id or folder
            gets fresh, untrained ones. An adapter brings its own.
        adapter: name of a shipped low-rank adapter, or a folder written by :func:`save_adapter`; it
            is merged into the weights. The model is then another one, also when it is called
            without a policy.
        task: name of a shipped classification task, or a folder written by ``saa train-task``.
        side: of the task: "sparse" has token gates, "dense" is what it is compared with; "auto" is
            the one that was found best on validation texts.

    Raises:
        ModelError: the name is no alias, folder or reachable hub id, the family is unsupported, or
            the adapter is broken or made for another model.
        FetchError: a pinned model could not be downloaded or verified.
        GateError: the gate folder is broken or made for another model.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    target = pick_device(device)
    own = parts_of(name)
    for what, given, said in (("adapter", adapter, own.adapter), ("task", task, own.task)):
        if said is not None and given is not None:
            raise ModelError(f"model={name!r} names its {what}; leave {what}={str(given)!r} out")
    name, adapter, task = own.model, adapter or own.adapter, task or own.task
    if side not in ("auto", *SIDES):
        raise ModelError(choice("side", side, ("auto", *SIDES)))
    if task is None and side != "auto":
        raise ModelError(f"side={side!r} belongs to a task; name one with task=")
    if adapter is not None and task is not None:
        raise ModelError(f"adapter={str(adapter)!r} and task={str(task)!r} exclude each other")
    lora = None if adapter is None else _shipped_folder("adapter", name, adapter)
    folder = None if task is None else _shipped_folder("task", name, task)
    about = None if folder is None else read_task(folder)
    if about is not None and side == "auto":
        side = about.side  # type: ignore[assignment]
    if gates is None and lora is not None:
        gates = lora / "gates"
    if gates is not None:
        read_gates(gates)  # refused before anything is downloaded
    dtype = dtype or (torch.float32 if target.type == "cpu" else torch.bfloat16)
    pinned = fetch.models().get(name)
    source = str(fetch.fetch_model(name, progress)) if pinned else name
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(source)
            if pinned and pinned.prefix:
                put_prefix(tokenizer, pinned.prefix)
            family = family_named(AutoConfig.from_pretrained(source).model_type, f"model={name!r}")
            kind = AutoModelForCausalLM if family.causal else AutoModel
            hf: Any = kind.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model={name!r} could not be loaded: it is not an alias "
            f"({', '.join(sorted(fetch.models()))}), and as a folder or hub id it gave: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if folder is not None and family.pack is None:
        raise ModelError(f"task={str(task)!r}: model={name!r} of family {family.name} has no tasks")
    shipped = fetch.assets() / "gates" / name
    if gates is None and pinned and (shipped / "gates.json").is_file():
        gates = shipped
    if lora is not None:
        hf = _merge(hf, lora, "adapter")
    if folder is not None:
        hf = _merge(hf, folder / side, "task")
    model = attach(hf.to(target).eval(), tokenizer, gates=gates)
    found = None
    if folder is not None and about is not None and family.pack is not None:
        hidden = int(model.hf.config.hidden_size)
        found = put_task(family.pack(model.hf), hidden, folder, side, about)
        for gate in model.gates:
            gate.mass_calibrators, gate.ood_detector = {}, None  # measured with other weights
            gate.defaults = None
    described = replace(
        model.spec,
        name=name,
        licence=pinned.licence if pinned else "unknown",
        note=pinned.note if pinned else "",
        prefix=pinned.prefix if pinned else "",
        adapter=None if lora is None else lora.name,
        task=None if found is None else found.name,
        policy=model.spec.policy if found is None else found.policy,
        evaluation=model.spec.evaluation if found is None else found.evaluation,
        reliability=model.spec.reliability if found is None else (),
    )
    reference = None
    if folder is not None:

        def reference() -> Model:
            return load(name, device=str(target), dtype=dtype, task=folder, side="dense")

    return replace(model, spec=described, task=found, load_reference=reference)


def put_prefix(tokenizer: Any, prefix: str) -> None:
    """Has a tokenizer put a prefix in front of every text, in place of the one that it put there before.

    Its tokens are added ones, as the special tokens are: they stand for no characters of the text, and
    a text that is cut keeps them. So nobody who tokenizes a text has to think of the prefix.

    Args:
        tokenizer: a fast one of an encoder.
    """
    from tokenizers.processors import TemplateProcessing

    ids = tokenizer(prefix.strip(), add_special_tokens=False)["input_ids"]
    added = {"id": "prefix", "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}
    first, last = tokenizer.cls_token, tokenizer.sep_token
    named = [(name, tokenizer.convert_tokens_to_ids(name)) for name in dict.fromkeys((first, last))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[first, "prefix", "$A", last],
        pair=[first, "prefix", "$A", last, last, "$B", last],
        special_tokens=[*named, added],
    )


MARKS = {"adapter": "adapter_config.json", "task": "task.json"}
"""The file that makes a folder one of these."""


def _shipped_folder(kind: str, model: str, given: str | os.PathLike[str]) -> Path:
    """A shipped adapter or task by its bare name, or a folder."""
    shipped, mark, path = fetch.assets() / f"{kind}s" / model, MARKS[kind], Path(given)
    for folder in (shipped / path, path) if len(path.parts) == 1 else (path,):
        if (folder / mark).is_file():
            return folder
    known = fetch.list_shipped(f"{kind}s", model)
    raise ModelError(
        f"{kind}={str(given)!r} is neither a folder with {mark} nor shipped for "
        f"model={model!r}; shipped: {', '.join(known) or 'none'}"
    )


def _merge(hf: Any, folder: Path, argument: str) -> Any:
    """The model with the adapter added to its weights; the adapter itself is gone."""
    from peft import PeftModel  # here: importing it takes a second

    try:
        adapted = PeftModel.from_pretrained(hf, folder)
        return adapted.merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{argument}={str(folder)!r} does not fit this model or is broken: "
            f"{str(error).splitlines()[0]}"
        ) from error


def pick_device(device: str) -> torch.device:
    """ "auto" takes cuda, then mps, then cpu.

    Raises:
        ModelError: the device is not known, or not on this machine.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if device == "auto":
        return torch.device(available[0])
    if device.split(":")[0] not in available:
        raise ModelError(
            f"device={device!r} is not on this machine; choose one of: auto, {', '.join(available)}"
        )
    return torch.device(device)


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether products in bfloat16 are no slower than in float32.

    A CPU without AVX-512 takes some 35 times as long for them (measured on an AMD EPYC with AVX2).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
