"""Who may ask: tokens, and the names under which the server may be addressed. No framework.

A token file has one token a line: the token alone, or a name, a role and the token, with spaces between.
Roles: "user" sees and deletes the runs that it asked for, "operator" all. ``SAA_SERVE_TOKEN`` holds one
token of an operator and goes before the file. Tokens are compared as digests, in constant time.
"""

import hashlib
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from saa_core.errors import PolicyError, choice
from saa_core.serve.settings import Settings

TOKEN = "SAA_SERVE_TOKEN"
ROLES = ("user", "operator")
SHORTEST = 16
NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Caller:
    """Who asks: a name, and whether it may see what others asked for."""

    name: str
    operator: bool


ANYONE = Caller("local", True)
"""On the loopback without tokens."""


@dataclass(frozen=True)
class Access:
    """The tokens by the digest of each, and the hosts and origins that are accepted."""

    tokens: dict[bytes, Caller] = field(repr=False)
    hosts: frozenset[str]
    origins: frozenset[str]

    def caller(self, authorization: str | None) -> Caller | None:
        """Who sends this header; None is refused."""
        if not self.tokens:
            return ANYONE
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        own, found = _digest(given.strip()), None
        for digest, caller in self.tokens.items():  # all of them, so that no time tells which
            if secrets.compare_digest(own, digest):
                found = caller
        return found

    def knows_host(self, host: str | None) -> bool:
        """Whether a Host header names this server."""
        return host is not None and _without_port(host.lower()) in self.hosts

    def knows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of this origin may ask: a listed one, or the server's own."""
        if origin is None or origin in self.origins:
            return True
        return host is not None and urlsplit(origin).netloc.lower() == host.lower()


def read_access(settings: Settings) -> Access:
    """Tokens of the environment or the file; hosts and origins of the settings.

    Raises:
        PolicyError: an address beyond the loopback has no token or no name, or a token cannot be used.
    """
    tokens = _tokens(settings.token_file)
    if not settings.loopback and not tokens:
        raise PolicyError(
            f"host={settings.host!r} can be reached from other machines and needs a token: set {TOKEN}, or "
            "token_file; without one only the loopback is served"
        )
    everywhere = settings.host in ("0.0.0.0", "::", "")
    if everywhere and not settings.hosts:
        raise PolicyError(
            f"host={settings.host!r} has no name: say with hosts (--allow-host) under which ones clients "
            "address this server"
        )
    own = [] if everywhere else [settings.host, f"[{settings.host}]"]
    names = frozenset(name.lower() for name in (*LOOPBACK, *own, *settings.hosts))
    return Access(tokens, names, frozenset(settings.origins))


def _tokens(file: str | None) -> dict[bytes, Caller]:
    if own := os.environ.get(TOKEN):
        return {_digest(_checked(own.strip(), TOKEN)): Caller("operator", True)}
    if file is None:
        return {}
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise PolicyError(f"token_file={file!r} cannot be read") from error
    found = dict[bytes, Caller]()
    for number, line in enumerate(lines, 1):
        parts, where = line.split(), f"token_file={file!r}, line {number}"
        if not parts or parts[0].startswith("#"):
            continue
        name, role, token = parts if len(parts) == 3 else ("operator", "operator", parts[-1])
        if len(parts) not in (1, 3) or not NAME.fullmatch(name):
            raise PolicyError(f"{where} must be a token, or a name, a role and a token")
        if role not in ROLES:
            raise PolicyError(f"{where}: {choice('role', role, ROLES)}")
        found[_digest(_checked(token, where))] = Caller(name, role == "operator")
    if not found:
        raise PolicyError(f"token_file={file!r} holds no token")
    return found


def _checked(token: str, where: str) -> str:
    """Raises PolicyError for a token that can be guessed; never shows it."""
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable():
        raise PolicyError(f"{where}: a token has {SHORTEST} or more printable ASCII characters")
    return token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() else host
