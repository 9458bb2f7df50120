"""Sentences by language, from TOML files: the one loader, for reports, presentations and the app."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from saa_core.errors import SAAError, TraceError, choice

LANGUAGES = {"en": "English", "ja": "日本語"}
"""What we speak, as each calls itself."""


@cache
def sentences(package: str, language: str, error: type[SAAError] = TraceError) -> Mapping[str, Any]:
    """The table of a package's file ``LANGUAGE.toml``.

    Args:
        error: what is raised where we do not speak the language.
    """
    check_language(language, error)
    file = resources.files(package) / f"{language}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def check_language(language: str, error: type[SAAError] = TraceError) -> None:
    if language not in LANGUAGES:
        raise error(choice("language", language, tuple(LANGUAGES)))
