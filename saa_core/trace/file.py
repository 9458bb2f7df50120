"""A trace on disk: one safetensors file (``.saa``) whose header carries the JSON.

Nothing in it is ever executed, and the maps of one layer are read only when asked for. Reads and writes
the fields of :class:`saa_core.trace.trace.Trace` by their names, without the class.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from saa_core.errors import PolicyError, TraceError
from saa_core.files import replacing
from saa_core.trace.audited import Audited
from saa_core.trace.maps import Array, OnDisk
from saa_core.trace.recorded import Execution, ModelInfo
from saa_core.types import Policy, Timing

TRACE_FORMAT = 3
"""2: layers may differ in what is allowed and forced (``plan``). 3: whole tokens may be dropped
(``alive``, ``token_score``, ``label_probs``). Files of formats 1 and 2 are still read."""
KNOWN_FORMATS = ("1", "2", "3")
ARRAYS = {
    "token_ids": "token_ids",
    "density": "density",
    "predicted_mass": "predicted_mass",
    "calibrated_mass": "calibrated_mass",
    "retained_mass": "retained_mass",
    "attention_received": "received",
    "mass_queries": "mass_queries",
    "retained_rows": "retained_rows",
    "first": "first",
    "last": "last",
    "forced": "forced",
    "layer_kind": "plan",
    "targets": "targets",
    "hidden": "hidden",
    "top_ids": "top_ids",
    "top_probs": "top_probs",
    "kept_tokens": "alive",
    "token_score": "token_score",
    "label_probs": "label_probs",
}
"""The arrays of a trace, and what they are called in its file."""


def write_file(path: Path, trace: Mapping[str, Any]) -> None:
    """Writes the fields of a trace to one file, under a temporary name first."""
    arrays = {stored: trace[name] for name, stored in ARRAYS.items() if trace[name] is not None}
    if trace["policy"] is not None and trace["layers"] is not None:
        for layer in range(len(trace["density"])):
            packed = trace["layers"].read(layer)
            for name in ("keep", "score", "threshold"):
                arrays[f"layer.{layer}.{name}"] = getattr(packed, name)
    about = {name: trace[name] for name in ("text", "tokens", "offsets", "block", "labels")}
    about |= {name: asdict(trace[name]) for name in ("model", "execution")}
    about |= {
        name: None if trace[name] is None else asdict(trace[name]) for name in ("policy", "audited")
    }
    about |= {
        "versions": dict(trace["versions"]),
        "timing": [asdict(timing) for timing in trace["timing"]],
        "events": [dict(event) for event in trace["events"]],
    }
    metadata = {"saa_trace": str(TRACE_FORMAT), "json": json.dumps(about)}
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as part:
        save_file(contiguous, part, metadata=metadata)


def read_file(path: Path) -> dict[str, Any]:
    """The fields of the trace in a file; maps are read when asked for.

    Raises:
        TraceError: the file is missing, broken, no trace, or of an unknown version.
    """
    try:
        with safe_open(path, framework="np") as stored:
            metadata = stored.metadata() or {}
            version = metadata.get("saa_trace")
            if version not in KNOWN_FORMATS:
                raise TraceError(
                    f"trace {path}: format {version!r} is not known; this version reads "
                    f"{', '.join(KNOWN_FORMATS)}"
                )
            about = json.loads(metadata["json"])
            names = set(stored.keys())
            arrays = {
                name: stored.get_tensor(kept) for name, kept in ARRAYS.items() if kept in names
            }
        if version == "1":
            _extend_first_format(arrays, about)
        full = any(name.startswith("layer.") for name in names)
        return {
            "text": about["text"],
            "tokens": None if about["tokens"] is None else tuple(about["tokens"]),
            "offsets": None
            if about["offsets"] is None
            else tuple((start, end) for start, end in about["offsets"]),
            "model": ModelInfo(**about["model"]),
            "policy": None if about["policy"] is None else Policy.stored(about["policy"]),
            "execution": Execution(**about["execution"]),
            "versions": about["versions"],
            "block": (about["block"][0], about["block"][1]),
            "labels": None if about.get("labels") is None else tuple(about["labels"]),
            "timing": tuple(Timing(**timing) for timing in about["timing"]),
            "events": tuple(about["events"]),
            "audited": _read_audited(about.get("audited")),
            "layers": OnDisk(path) if full else None,
            **{name: arrays.get(name) for name in ARRAYS},
        }
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, PolicyError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"trace {path}: cannot be read: {error}") from error


def _extend_first_format(arrays: dict[str, Array], about: Mapping[str, Any]) -> None:
    """In files of format 1 all layers are of one kind and aim at the mass of the policy."""
    layers = len(arrays["density"])
    aim = 1.0 if about["policy"] is None else about["policy"]["mass"]
    arrays["layer_kind"] = np.zeros(layers, np.int32)
    arrays["targets"] = np.full(layers, aim, np.float32)
    arrays |= {name: arrays[name][None] for name in ("first", "last")}
    arrays["forced"] = arrays["forced"][None, None]


def _read_audited(about: dict[str, Any] | None) -> Audited | None:
    return None if about is None else Audited(**{**about, "slices": tuple(about["slices"])})
