"""GGUF checkpoints to safetensors, by Transformers' own reader; its progress bars become ours."""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from saa_core.types import StepProgress


def convert(source: Path, out: Path) -> None:
    """Dequantises a GGUF checkpoint to fp32 safetensors that load in under a second."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        hf: Any = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        hf.hf_quantizer = None
        hf.is_quantized = False
        with contextlib.suppress(AttributeError):
            del hf.config.quantization_config
        hf.save_pretrained(out)
        tokenizer.save_pretrained(out)


@contextlib.contextmanager
def gguf_progress(report: StepProgress, label: str) -> Iterator[None]:
    """Transformers' bar over the tensors of a GGUF file, which cannot be switched off, as our progress."""
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")

    def reported(tensors: Sequence[Any], **_given: Any) -> Iterator[Any]:
        for done, tensor in enumerate(tensors):
            report(label, done, len(tensors))
            yield tensor
        report(label, len(tensors), len(tensors))

    shown = getattr(reader, "tqdm", None)  # another version may report in another way
    if shown is not None:
        reader.tqdm = reported
    try:
        yield
    finally:
        if shown is not None:
            reader.tqdm = shown


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Transformers' own progress bars off: ours say what is being done."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
