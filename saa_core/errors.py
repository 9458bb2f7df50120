"""The error tree. Each message names the argument, what came, what was expected and the valid choices."""

from collections.abc import Iterable


class SAAError(Exception):
    """Base of everything that saa_core raises on purpose."""


class PolicyError(SAAError, ValueError):
    """A policy or another argument has a value that cannot be used."""


class TextError(SAAError, ValueError):
    """The text is empty or longer than the model's limit.

    Args:
        limit: the model's limit in tokens, where that is what was exceeded.
        length: the text's length in tokens, where known.
        cut_at: character offset at which the text would have to be cut to fit.
    """

    def __init__(
        self,
        message: str,
        *,
        limit: int | None = None,
        length: int | None = None,
        cut_at: int | None = None,
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.length = length
        self.cut_at = cut_at


class ModelError(SAAError, ValueError):
    """The model is unknown, unsupported or not in the state that the call needs."""


class GateError(SAAError, ValueError):
    """Gate weights are missing, broken or made for another model."""


class FetchError(SAAError, RuntimeError):
    """A download failed, or what came is not what was pinned."""


class KernelError(SAAError, RuntimeError):
    """A kernel cannot run here, or would run in a way that was not asked for."""


class StoppedError(SAAError, RuntimeError):
    """Whoever asked for a call no longer waits for it; it stopped at the next layer or token."""


class TraceError(SAAError, ValueError):
    """A trace is broken, of an unknown version, or does not hold what was asked for."""


class StoreError(SAAError, RuntimeError):
    """The store of traces refuses: an unknown id, a broken file, a statement that is no SELECT."""


class DeckError(SAAError, ValueError):
    """A presentation cannot be read, or shows what its traces do not hold."""


def check_text(text: object, argument: str) -> None:
    """Raises TextError where a text has no word or cannot be encoded; ``argument`` is what it is called."""
    if not isinstance(text, str) or not text.strip():
        raise TextError(f"{argument} is empty; give at least one word")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(
            f"{argument} has an invalid character (a lone surrogate) at position {error.start}"
        ) from error


def choice(argument: str, value: object, valid: Iterable[str]) -> str:
    """The sentence for a value outside a fixed set of choices."""
    return f"{argument}={value!r} is not known; choose one of: {', '.join(sorted(valid))}"
