"""The process of one session: its scene, its page, its uploads; only the gateway can reach it.

A process for each session, not one for all: Slicer's scene, and with it the code in `gui`, is one in a process; a map
that one person has made does not slow another's mouse down; and when the process ends, everything of the session is
gone.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

os.environ["WSLINK_READY_MSG"] = ""  # standard output tells the gateway the port, and nothing else

from aiohttp import web
from trame.app import get_server
from trame_plotly import module as plotly_module
from trame_rca import module as rca_module

from PerfusionCBVLib.errors import PerfusionError, UsageError
from PerfusionCBVLib.web.opening import DOWNLOADS, UPLOADS, batch_name, too_large, upload_name
from PerfusionCBVLib.web.scene import start_scene
from PerfusionCBVLib.web.sessions import SECRET_HEADER

STATIC = Path(__file__).parent / "static"
_CHUNK_BYTES = 1024**2


def main() -> None:
    """Serve one session until the gateway lets go of it; its orders come as one line of JSON on standard input."""
    orders = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_gateway, args=(Path(orders["folder"]),), daemon=True).start()
    asyncio.run(_serve(orders))


def _end_with_the_gateway(folder: Path) -> None:
    sys.stdin.read()  # returns when the gateway closes the pipe, or is no more
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


async def _serve(orders: dict[str, Any]) -> None:
    folder = Path(orders["folder"])
    start_scene(folder)
    server = get_server("perfusion-cbv", client_type="vue3")
    server.enable_module(rca_module)
    server.enable_module({"serve": plotly_module.serve})  # only served: page.js fetches its script, 4.6 MB, later
    server.enable_module(
        {
            "serve": {"perfusion": str(STATIC)},
            "styles": ["perfusion/page.css"],
            "scripts": ["perfusion/page.js"],
            "vue_use": ["perfusion"],
        }
    )
    server.state.trame__title = "Perfusion CBV"
    server.state.trame__favicon = "perfusion/icon.png"
    files = SessionFiles(folder, orders["upload_limit_bytes"])

    def bind(wslink: Any) -> None:
        wslink.app.middlewares.append(_only_with(orders["secret"]))
        wslink.app.router.add_post("/upload/{batch}/{name}", files.take_in)
        wslink.app.router.add_get("/download/{key}/{name}", files.hand_out)

    server.controller.on_server_bind.add(bind)

    def ready(**_: Any) -> None:
        from trame.ui.html import DivLayout

        from PerfusionCBVLib.web.session import Session

        session = Session(server, folder, Path(orders["root"]) if orders["root"] else None)
        server.state.plotly_script = plotly_module.scripts[0]
        server.state.upload_limit_mb = orders["upload_limit_bytes"] // 1024**2
        with DivLayout(server, classes="whole") as layout:
            layout.root.add_child((STATIC / "page.html").read_text(encoding="utf-8"))
        layout.flush_content()
        server.state.flush()
        if orders["input"]:
            session.desk.start(session.open_given(Path(orders["input"])))
        print(json.dumps({"port": server.port}), flush=True)

    server.controller.on_server_ready.add(ready)
    await server.start(
        exec_mode="coroutine",
        host="127.0.0.1",
        port=0,
        timeout=0,
        open_browser=False,
        show_connection_info=False,
        disable_logging=True,
    )


def _only_with(secret: str) -> Any:
    """Return what refuses every request that does not come from the gateway: other users have loopback, too."""

    @web.middleware
    async def check(request: web.Request, handler: Any) -> web.StreamResponse:
        if not hmac.compare_digest(request.headers.get(SECRET_HEADER, ""), secret):
            return web.Response(status=403, text="Open the address that the server printed at its start.")
        return await handler(request)

    return check


class SessionFiles:
    """Files that come from the browser and go to it.

    Parameters
    ----------
    folder : Path
        The session's.
    limit_bytes : int
        For all uploads of the session together.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._taken_bytes = 0

    async def take_in(self, request: web.Request) -> web.Response:
        """Keep one uploaded file in the folder of its batch; refuse other kinds, and more than the limit."""
        try:
            name = upload_name(request.match_info["name"])
            batch = batch_name(request.match_info["batch"])
        except PerfusionError as error:
            return web.Response(status=400, text=str(error))
        announced = request.content_length
        if announced is not None and self._taken_bytes + announced > self._limit_bytes:
            return web.Response(status=413, text=too_large(self._limit_bytes))
        place = self._folder / UPLOADS / batch
        place.mkdir(parents=True, exist_ok=True)
        path = place / name
        written = 0
        try:
            with path.open("xb") as kept:
                async for chunk in request.content.iter_chunked(_CHUNK_BYTES):
                    written += len(chunk)
                    if self._taken_bytes + written > self._limit_bytes:
                        raise UsageError(too_large(self._limit_bytes))
                    kept.write(chunk)
        except FileExistsError:
            return web.Response(status=409, text=f"{name} was uploaded twice. Choose it once.")
        except (UsageError, OSError) as error:
            path.unlink(missing_ok=True)
            return web.Response(status=413, text=str(error))
        except BaseException:  # the browser went away
            path.unlink(missing_ok=True)
            raise
        self._taken_bytes += written
        return web.Response(text="")

    async def hand_out(self, request: web.Request) -> web.StreamResponse:
        """Send a file that this session has made."""
        key, name = request.match_info["key"], request.match_info["name"]
        path = self._folder / DOWNLOADS / key / name
        if not re.fullmatch(r"[0-9a-f]{16}", key) or "/" in name or name.startswith(".") or not path.is_file():
            return web.Response(status=404, text="There is no such file. Make it again.")
        return web.FileResponse(path, headers={"Content-Disposition": f'attachment; filename="{path.name}"'})


if __name__ == "__main__":
    main()
