"""The command that serves models over HTTP: ``serve``."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saa_core.cli.options import device_option
from saa_core.errors import SAAError

if TYPE_CHECKING:
    from saa_core.serve.settings import ServedModel

MISSING = (
    "the server needs FastAPI, uvicorn and prometheus-client, which are not installed; install them with: "
    'pip install "saa-core[serve]"'
)
HOST, PORT = "127.0.0.1", 8601


def serve(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "--config",
        metavar="FILE",
        help="serve.toml: models, policies, limits, tokens; options go before it (default: none)",
    )
    command.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help='model to serve, as a title says it ("minilm + spam"), hub id or folder; may be given several '
        "times (default: those of --config, or all that ship)",
    )
    command.add_argument(
        "--engine",
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder that saa export wrote, served without PyTorch; may be given several times (default: none)",
    )
    command.add_argument(
        "--host",
        metavar="ADDRESS",
        help=f"address to listen at; another one than the loopback needs a token (default: {HOST})",
    )
    command.add_argument(
        "--port", type=int, metavar="N", help=f"port; 0 takes a free one (default: {PORT})"
    )
    command.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name under which clients address the server; may be given several times (default: the "
        "loopback's and --host)",
    )
    command.add_argument(
        "--token-file",
        metavar="FILE",
        help="file of tokens; SAA_SERVE_TOKEN goes before it (default: none, which serves the loopback only)",
    )
    command.add_argument(
        "--keep",
        choices=("none", "figures", "text"),
        help="what is kept of recorded runs: nothing, without the text, or with it (default: none)",
    )
    device_option(command)
    command.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    from saa_core.serve.settings import ServedModel, Settings, read_settings

    own = [ServedModel(model=name) for name in options.model]
    own += [ServedModel(name=Path(folder).name, engine=folder) for folder in options.engine]
    if options.config is not None:
        settings = read_settings(Path(options.config))
        settings = replace(settings, models=tuple(own)) if own else settings
    else:
        settings = Settings(models=tuple(own) or _shipped())
    given: dict[str, Any] = {
        "host": options.host,
        "port": options.port,
        "token_file": options.token_file,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if options.device != "auto":
        given["device"] = options.device
    if options.allow_host:
        given["hosts"] = (*settings.hosts, *options.allow_host)
    if options.keep is not None:
        given["keep"] = replace(settings.keep, what=options.keep)
    settings = replace(settings, **given)
    try:
        from saa_core.serve.server import serve
    except ImportError as error:
        raise SAAError(MISSING) from error
    return serve(settings)


def _shipped() -> "tuple[ServedModel, ...]":
    """What the page offers, and the original of what ships with an adapter."""
    from saa_core.data import fetch
    from saa_core.data.titles import FIRST
    from saa_core.serve.settings import ServedModel

    tasks = [f"minilm + {task}" for task in fetch.list_shipped("tasks", "minilm")]
    return tuple(ServedModel(model=name) for name in (FIRST, "smollm2", "minilm", *tasks, "e5"))
