"""The command `view`: the browser face."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import ssl
import sys
from importlib import import_module
from typing import Any

from PerfusionCBVLib import cli_options
from PerfusionCBVLib.errors import MissingPackageError, UnreadableInputError, UsageError

TOKEN_VARIABLE = "PERFUSIONCBV_TOKEN"
SHORTEST_TOKEN = 16


def add_command(commands: Any) -> None:
    """Add the command to the command line's."""
    view = commands.add_parser("view", help="read cases in a browser, on this computer or from another")
    view.add_argument(
        "input",
        type=cli_options.path,
        nargs="?",
        metavar="INPUT",
        help="opened in every session: DICOM folder or .zip, NIfTI, ...",
    )
    view.add_argument(
        "--root", type=cli_options.path, metavar="DIR", help="folder whose series can be opened from the page"
    )
    view.add_argument(
        "--host", default="127.0.0.1", help="address to bind to; default: %(default)s, this computer only"
    )
    view.add_argument(
        "--port", type=cli_options.number(int, 0, 65535), default=8787, help="0: any that is free; default: %(default)s"
    )
    view.add_argument(
        "--no-token",
        action="store_true",
        help="let everybody in who reaches the page; on this computer only, which may have other users",
    )
    view.add_argument("--certificate", type=cli_options.path, metavar="FILE", help="TLS certificate (PEM), with --key")
    view.add_argument("--key", type=cli_options.path, metavar="FILE", help="its private key (PEM)")
    view.add_argument(
        "--sessions", type=cli_options.number(int, 1, 1000), default=4, help="people at a time; default: %(default)s"
    )
    view.add_argument(
        "--upload-limit",
        type=cli_options.number(int, 1, 1_000_000),
        default=2048,
        metavar="MB",
        help="a session's uploads together; default: %(default)s",
    )
    view.add_argument(
        "--idle-minutes",
        type=cli_options.number(float, 0.01, 1e6),
        default=60.0,
        metavar="MINUTES",
        help="a session without an open page ends, and its uploads are deleted; default: %(default)g",
    )
    view.set_defaults(run=_view)


def _view(options: argparse.Namespace) -> int:
    if options.input is not None and not options.input.exists():
        raise UnreadableInputError(f"There is no file or folder {options.input}. Check the path.")
    if options.root is not None and not options.root.is_dir():
        raise UsageError(f"--root {options.root} is no folder. Name the folder that holds the series.")
    if (options.certificate is None) != (options.key is None):
        raise UsageError("--certificate and --key belong together; give both or none.")
    try:
        from PerfusionCBVLib.web.gateway import is_loopback, serve
        from PerfusionCBVLib.web.sessions import Orders

        for package in ("slicer", "trame", "trame_rca", "trame_plotly"):
            import_module(package)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"The browser face needs packages that are not installed ({error.name}): pip install 'perfusion-cbv[web]'."
        ) from error

    tls = None
    if options.certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            tls.load_cert_chain(options.certificate, options.key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"The certificate or its key can't be read ({error}). Give two PEM files.") from error
    token = "" if options.no_token else _token()
    loopback = is_loopback(options.host)

    def ready(port: int) -> None:
        host = "127.0.0.1" if options.host in ("localhost", "0.0.0.0", "::") else options.host
        host = f"[{host}]" if ":" in host else host
        query = f"?token={token}" if token else ""
        print(f"Open {'https' if tls else 'http'}://{host}:{port}/{query}", flush=True)
        print("Research use only. Ctrl-C ends all sessions and deletes what was uploaded.", flush=True)
        if not loopback and tls is None:
            warning = "Not encrypted: whoever is on the network can read patients' data. Use --certificate and --key."
            print(f"perfusion-cbv: {warning}", file=sys.stderr, flush=True)

    orders = Orders(
        input=options.input,
        root=options.root,
        upload_limit_bytes=options.upload_limit * 1024**2,
        most=options.sessions,
        idle_s=options.idle_minutes * 60,
    )
    asyncio.run(serve(orders, host=options.host, port=options.port, token=token, tls=tls, ready=ready))
    return 0


def _token() -> str:
    """Return the token from the environment, where other users can't see it, or a new one."""
    given = os.environ.get(TOKEN_VARIABLE, "")
    if given and len(given) < SHORTEST_TOKEN:
        raise UsageError(f"{TOKEN_VARIABLE} has {len(given)} characters; at least {SHORTEST_TOKEN} are needed.")
    return given or secrets.token_urlsafe(24)
