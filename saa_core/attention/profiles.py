"""What was measured on which machine: times of dense and SAA by length, and what follows for a text here.

A profile is one machine, one model with its gates, and one number format, measured under the default policy
(:mod:`saa_core.run.profile`). Those of machines that were met ship in assets/profiles; one's own lie in the
cache folder and come first. They are read once per process. Nothing here runs a model.
"""

import functools
import hashlib
import json
import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from saa_core.data import fetch
from saa_core.errors import SAAError
from saa_core.files import cache_dir, read_known, write_json
from saa_core.types import PAIR_LIMIT, quartiles

PROFILE_FORMAT = 1
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve")
"""Of a processor: what the kernels' speed depends on."""
Kind = Literal["pairs", "tokens"]
CAUTIOUS = 65_536
"""Tokens up to which a text is computed densely on a GPU of which nothing is known that fits: no GPU that was
measured gained time below."""


@dataclass(frozen=True)
class Machine:
    """Where was measured.

    Args:
        device: "cpu", or the name of a GPU.
        cpu: name of the processor.
        features: those of FEATURES that it has.
        threads: that PyTorch used.
    """

    device: str
    cpu: str
    features: tuple[str, ...]
    threads: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))


@dataclass(frozen=True)
class Times:
    """One length: whole forward passes in ms, the two sides in turn."""

    length: int
    dense_ms: tuple[float, ...]
    saa_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("dense_ms", "saa_ms"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def gain(self) -> float:
        """How many times faster SAA is: median over neighbouring samples."""
        pairs = zip(self.dense_ms, self.saa_ms, strict=True)
        return quartiles([dense / sparse for dense, sparse in pairs])[1]


@dataclass(frozen=True)
class Profile:
    """What was measured of one model on one machine.

    Args:
        model: title of the model.
        gate: id of its gates; of a policy that drops tokens the title of the model.
        shape: (layers, heads, key heads, head size): other gates of the same shape are timed alike.
        dtype: of the weights.
        policy: what ran beside dense, as it prints.
        times: by length, ascending.
        block: (queries, keys) of long texts.
        kind: "pairs" are left out, or whole "tokens", where dense is the task's reference model.
        batch: texts at a time.
        command, day, versions: how, when and with what it was measured.
    """

    machine: Machine
    model: str
    gate: str
    shape: tuple[int, ...]
    dtype: str
    policy: str
    times: tuple[Times, ...]
    block: tuple[int, int] = (32, 16)
    kind: Kind = "pairs"
    batch: int = 1
    command: str = ""
    day: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("shape", "block"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        ordered = tuple(sorted(self.times, key=lambda each: each.length))
        object.__setattr__(self, "times", ordered)

    def gain(self, length: int) -> float | None:
        """How many times faster SAA is at a length: between two measured ones along the line between
        their logarithms, above the longest as there. None below the shortest, where nothing was shown.

        Texts that are decided pair by pair and those in blocks are not mixed.
        """
        pairwise = self.kind == "pairs" and length <= PAIR_LIMIT
        blocks = self.kind == "pairs" and length > PAIR_LIMIT
        own = [t for t in self.times if (t.length <= PAIR_LIMIT or not pairwise)]
        own = [t for t in own if (t.length > PAIR_LIMIT or not blocks)]
        below = [t for t in own if t.length <= length]
        above = [t for t in own if t.length > length]
        if not below:
            return None
        if not above:
            return below[-1].gain
        first, second = below[-1], above[0]
        along = math.log(length / first.length) / math.log(second.length / first.length)
        logs = math.log(first.gain), math.log(second.gain)
        return math.exp(logs[0] + along * (logs[1] - logs[0]))


@dataclass(frozen=True)
class Verdict:
    """What the profiles say of a text: whether it is computed densely, and why, as a sentence."""

    dense: bool
    reason: str


def verdict(
    length: int,
    *,
    gate: str,
    shape: Sequence[int],
    dtype: str,
    machine: Machine,
    block: tuple[int, int] = (32, 16),
    kind: Kind = "pairs",
    batch: int = 1,
    profiles: Iterable[Profile] | None = None,
) -> Verdict | None:
    """What was measured says whether a text of this length gains time; None where nothing was measured of
    such a model, so that it is decided. A GPU starts a launch per operation, which short texts do not pay
    back: there a text is computed densely until something was measured, short of CAUTIOUS tokens.

    The nearest profiles count: those of this number format, if there are any, and of them those of this
    machine; else those of machines alike (the same kind of
    device, the same features); else all of the same kind of device, of which every one has to gain. Among
    them those of these gates, else those of the same shape.

    Args:
        profiles: those that are known by default.
    """
    found = [
        each
        for each in (known() if profiles is None else profiles)
        if each.kind == kind
        and (each.machine.device == "cpu") == (machine.device == "cpu")
        and (each.gate == gate or each.shape == tuple(shape))
    ]
    if not found:
        return _unmeasured(length, machine, kind)
    found = [each for each in found if each.dtype == dtype] or found
    here = [each for each in found if same_machine(each.machine, machine)]
    alike = [each for each in found if _alike(each.machine, machine)]
    near = here or alike or found
    near = [each for each in near if each.gate == gate] or near
    near = [each for each in near if each.block == block] or near
    closest = min(abs(math.log(each.batch / batch)) for each in near)
    near = [each for each in near if abs(math.log(each.batch / batch)) == closest]
    gains = [each.gain(length) for each in near]
    shown = [gain for gain in gains if gain is not None]
    if here:
        where = "on this machine"
    else:
        names = sorted(
            {each.machine.cpu if machine.device == "cpu" else each.machine.device for each in near}
        )
        where = f"on {'machines alike' if alike else 'other machines'} ({'; '.join(names)})"
    of = "" if near[0].gate == gate else f" for {near[0].model}, which has the same shape,"
    of += "" if near[0].dtype == dtype else f" in {near[0].dtype}"
    if len(shown) < len(gains):
        timed = sorted({t.length for each in near for t in each.times})
        longer = [each for each in timed if each > length]
        nearest = f"{longer[0]:,} are the fewest" if longer else f"{timed[-1]:,} are the most"
        what = f"{length:,} tokens were not measured to gain time, {nearest} that were timed"
        return Verdict(True, f"{what}{of} {where}")
    what = (
        f"{min(shown):.2f} times the speed of dense at {length:,} tokens, as measured{of} {where}"
    )
    return Verdict(min(shown) <= 1.0, what)


def _unmeasured(length: int, machine: Machine, kind: Kind) -> Verdict | None:
    """Of a model and machine that no profile fits."""
    if machine.device in ("cpu", "mps"):
        return None
    nothing = f"nothing was measured of such a model on a GPU ({machine.device} here)"
    if kind == "tokens":
        return Verdict(True, f"{nothing}; until it is, no token is dropped (saa measure --profile)")
    said = f"texts under {CAUTIOUS:,} tokens are computed densely (saa measure --profile)"
    return Verdict(length < CAUTIOUS, f"{nothing}; until it is, {said}")


def faster_dtype(
    model: str, machine: Machine, profiles: Iterable[Profile] | None = None
) -> str | None:
    """The number format in which this very machine was measured to run a model faster than in float32: dense
    and SAA, at every length of more than PAIR_LIMIT tokens at which both were timed. None: float32, also
    where nothing was measured.

    Args:
        model: alias of the base model; profiles of its adapters count as well.
        profiles: those that are known by default.
    """
    medians: dict[str, dict[int, tuple[float, float]]] = {}
    for each in known() if profiles is None else profiles:
        if each.kind != "pairs" or each.model.partition(" + ")[0] != model:
            continue
        if same_machine(each.machine, machine):
            own = medians.setdefault(each.dtype, {})
            for t in each.times:
                if t.length > PAIR_LIMIT:
                    own[t.length] = quartiles(t.dense_ms)[1], quartiles(t.saa_ms)[1]
    plain = medians.pop("float32", {})
    gains = {}
    for dtype, own in medians.items():
        common = sorted(plain.keys() & own.keys())
        ratios = [plain[n][side] / own[n][side] for n in common for side in (0, 1)]
        if ratios and min(ratios) > 1:
            gains[dtype] = min(ratios)
    return max(gains, key=lambda dtype: gains[dtype], default=None)


def same_machine(one: Machine, other: Machine) -> bool:
    """Whether what was measured on the one holds for the other: processor, features and threads, or the GPU."""
    if other.device != "cpu":
        return one.device == other.device
    return one == other


def _alike(one: Machine, other: Machine) -> bool:
    return other.device == "cpu" and one.device == "cpu" and one.features == other.features


@functools.cache
def this_machine(device: torch.device, threads: int) -> Machine:
    """The machine that a tensor on ``device`` is computed on."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    features = tuple(feature for feature in FEATURES if feature in flags)
    if not features:
        features = (torch.backends.cpu.get_cpu_capability().lower(),)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Machine(place, name, features, threads)


def own_folder() -> Path:
    """Where profiles of this machine are kept."""
    return cache_dir() / "profiles"


def folders() -> tuple[Path, ...]:
    """Where profiles lie: one's own, and those that ship."""
    return own_folder(), fetch.assets() / "profiles"


@functools.cache
def known() -> tuple[Profile, ...]:
    """Profiles that were measured here, and those that ship; one that cannot be read is as if it was not
    there, since a text can do without."""
    return tuple(read_known(folders(), read_profiles))


def read_profiles(file: Path) -> list[Profile]:
    """The profiles of one machine.

    Raises:
        SAAError: naming the file; it cannot be read, or is of another format.
    """
    try:
        about: Any = json.loads(file.read_text(encoding="utf-8"))
        if about["format"] != PROFILE_FORMAT:
            raise ValueError(f"format {about['format']!r}; this version reads {PROFILE_FORMAT}")
        machine = Machine(**about["machine"])
        return [
            Profile(
                **{**each, "machine": machine, "times": tuple(Times(**t) for t in each["times"])}
            )
            for each in about["measured"]
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SAAError(f"profile={str(file)!r} is no valid profile: {error}") from error


def save_profiles(found: Sequence[Profile], file: Path | None = None) -> Path:
    """Adds profiles of one machine to a file; those of the same model, gates and number format are
    replaced.

    Args:
        file: by default the machine's own in the cache folder.
    """
    machine = found[0].machine
    if file is None:
        digest = hashlib.sha256(json.dumps(asdict(machine)).encode()).hexdigest()
        file = own_folder() / f"{digest[:12]}.json"
    kept = read_profiles(file) if file.is_file() else []
    fresh = {_key(each) for each in found}
    kept = [e for e in kept if e.machine == machine and _key(e) not in fresh]
    measured = [asdict(each) for each in (*kept, *found)]
    for each in measured:
        del each["machine"]
    write_json(file, {"format": PROFILE_FORMAT, "machine": asdict(machine), "measured": measured})
    known.cache_clear()
    return file


def _key(profile: Profile) -> tuple[object, ...]:
    return profile.model, profile.gate, profile.dtype, profile.kind, profile.batch, profile.block
