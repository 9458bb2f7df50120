"""Files that a visitor brings or takes along: recorded traces and policies."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import streamlit as st

import saa_core as saa
from app.live.values import Result
from app.state.session import recorded_result
from saa_core.certify.policy_file import read_policy
from saa_core.trace.check import check

T = TypeVar("T")


def open_trace(name: str, content: bytes) -> Result:
    """A recorded trace from an uploaded file.

    Raises:
        TraceError: the file is no trace, or its parts do not fit together.
    """
    digest = hashlib.sha256(content).hexdigest()
    kept: tuple[str, Result] | None = st.session_state.get("recorded")
    if kept is not None and kept[0] == digest:
        return kept[1]
    file = tempfile.NamedTemporaryFile(suffix=".saa")  # noqa: SIM115, lives as long as the result
    file.write(content)
    file.flush()
    trace = saa.Trace.load(file.name)
    check(trace)
    result = recorded_result(trace, name, keep_alive=file)
    st.session_state["recorded"] = (digest, result)
    return result


def trace_bytes(trace: saa.Trace) -> bytes:
    """The trace as the file that :func:`open_trace` opens."""
    with tempfile.TemporaryDirectory() as folder:
        return trace.save(Path(folder) / "run.saa").read_bytes()


@st.cache_data(show_spinner=False, max_entries=16)
def open_policy(content: bytes, name: str, _model: saa.Model) -> saa.StoredPolicy:
    """An uploaded policy file, of the model that it was chosen for; ``name`` stands for the model in
    the cache.

    Raises:
        PolicyError: it is no policy file, or was chosen for another model or other gates.
    """
    stored = read_policy(content)
    if stored.policy is not None:
        stored.check(_model)
    return stored


def from_file(name: str, content: bytes, read: Callable[[Path], T]) -> T:
    """What a reader of files makes of an uploaded one. Where it lay is nobody's business.

    Raises:
        TextError: see ``read``.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / Path(name).name
        copy.write_bytes(content)
        try:
            return read(copy)
        except saa.TextError as error:
            raise saa.TextError(str(error).replace(f"{folder}/", "")) from error
