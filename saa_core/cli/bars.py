"""Progress of the command line as tqdm bars, one per step."""

from typing import Any

from tqdm import tqdm


class Bars:
    """Called with (step, done, total) and, where there is one, a remark; a new step opens a new bar."""

    def __init__(self, unit: str = "") -> None:
        self.bar: tqdm[Any] | None = None
        self.what = ""
        self.unit = unit

    def __call__(self, what: str, done: int, total: int, remark: str = "") -> None:
        if self.bar is None or what != self.what:
            self.close()
            scale = not self.unit and total > 100_000  # bytes
            unit = "B" if scale else self.unit
            self.bar = tqdm(total=total, desc=what, unit=unit, unit_scale=scale)
            self.what = what
        if remark:
            self.bar.set_postfix_str(remark, refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None
