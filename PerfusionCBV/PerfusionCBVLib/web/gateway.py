"""The only address of the browser face: asks for the token, gives each browser its own session, hands requests on."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import signal
import ssl
import time
from collections.abc import Callable
from html import escape
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from PerfusionCBVLib.errors import PerfusionError, UsageError
from PerfusionCBVLib.web.opening import too_large
from PerfusionCBVLib.web.sessions import SECRET_HEADER, Orders, Running, Sessions

_NOT_HANDED_ON = {"connection", "keep-alive", "transfer-encoding", "upgrade", "host", "cookie", "te", "trailer"}
_LARGEST_MESSAGE_BYTES = 64 * 1024**2
_HEADERS = {
    # Vue compiles the page's template in the browser, which needs eval; nothing comes from any other server.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; "
        "form-action 'self'; base-uri 'self'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked again each time, so that nothing is shown after a session has ended
}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Perfusion CBV</title>
<style>body{{font:16px/1.5 sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;color:#222}}</style>
<h1>{title}</h1><p>{text}</p>{more}</html>"""


def is_loopback(host: str) -> bool:
    """Return whether an address to bind to can be reached from this computer only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gateway:
    """Asks for the token, keeps sessions apart by a cookie, hands requests on to the session's process.

    Parameters
    ----------
    sessions : Sessions
    token : str
        Empty: none is asked for, which only loopback may have.
    port : int
    secure : bool
        Whether the connection is encrypted.
    """

    def __init__(self, sessions: Sessions, token: str, port: int, *, secure: bool) -> None:
        self._sessions, self._token, self._secure = sessions, token, secure
        self._cookie = f"perfusion_cbv_{port}"
        self._client: aiohttp.ClientSession | None = None
        self._admitted: set[str] = set()  # cookies of browsers that showed the token; their sessions may have ended

    def application(self) -> web.Application:
        """Return the application to serve."""
        application = web.Application()
        application.router.add_post("/end", self.end)
        application.router.add_route("*", "/{path:.*}", self.answer)
        application.on_response_prepare.append(_add_headers)
        application.on_startup.append(self._start)
        application.on_cleanup.append(self._stop)
        return application

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request: with the session's page, or why not."""
        if not self._token and not is_loopback(urlsplit(f"//{request.host}").hostname or ""):
            return _page(403, "Not here", "This server answers to localhost only.")
        running = self._sessions.find(request.cookies.get(self._cookie, ""))
        given = request.query.get("token", "")
        if running is None:
            been_here = request.cookies.get(self._cookie, "") in self._admitted
            if self._token and not been_here and not hmac.compare_digest(given.encode(), self._token.encode()):
                return _page(401, "Not open", "Open the address with the token that the server printed at its start.")
            if request.method != "GET" or request.path != "/":
                return _page(401, "This session has ended", "Open the address of the server again.")
            return await self._enter()
        if given:  # the token shall not stay in the address and the history
            return web.Response(status=303, headers={"Location": "/"})
        if not _same_origin(request):
            return _page(403, "Not from here", "This request came from another page.")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._hand_on_socket(request, running)
        return await self._hand_on(request, running)

    async def end(self, request: web.Request) -> web.StreamResponse:
        """End the session of who asks, and delete its files."""
        key = request.cookies.get(self._cookie, "")
        if self._sessions.find(key) is None or not _same_origin(request):
            return _page(401, "No session", "There is no session to end.")
        await self._sessions.end(key)
        again = "" if self._token else '<p><a href="/">Start again</a></p>'
        text = "Everything that was uploaded or computed in it is deleted. To start again, open the server's address."
        response = _page(200, "The session has ended", text, again)
        response.del_cookie(self._cookie)
        return response

    async def _enter(self) -> web.StreamResponse:
        try:
            key = await self._sessions.new()
        except PerfusionError as error:
            return _page(503, "Not now", str(error))
        self._admitted.add(key)
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(self._cookie, key, httponly=True, samesite="Lax", secure=self._secure, path="/")
        return response

    async def _hand_on(self, request: web.Request, running: Running) -> web.StreamResponse:
        limit_bytes = self._sessions.orders.upload_limit_bytes
        if (request.content_length or 0) > limit_bytes:
            return web.Response(status=413, text=too_large(limit_bytes))
        assert self._client is not None
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _NOT_HANDED_ON}
        address = f"http://127.0.0.1:{running.port}{request.raw_path}"
        body = request.content if request.can_read_body else None
        try:
            async with self._client.request(
                request.method,
                address,
                headers={**headers, SECRET_HEADER: running.secret},
                data=body,
                allow_redirects=False,
            ) as answered:
                kept = {k: v for k, v in answered.headers.items() if k.lower() not in _NOT_HANDED_ON}
                response = web.StreamResponse(status=answered.status, headers=kept)
                if request.path.startswith("/download/"):
                    response.headers["Cache-Control"] = "no-store"
                await response.prepare(request)
                async for chunk in answered.content.iter_chunked(256 * 1024):
                    await response.write(chunk)
                await response.write_eof()
                return response
        except aiohttp.ClientConnectionError:
            return _page(502, "This session does not answer", "Reload the page.")

    async def _hand_on_socket(self, request: web.Request, running: Running) -> web.StreamResponse:
        assert self._client is not None
        here = web.WebSocketResponse(max_msg_size=_LARGEST_MESSAGE_BYTES, compress=False, heartbeat=30)
        await here.prepare(request)
        running.pages += 1
        try:
            async with self._client.ws_connect(
                f"ws://127.0.0.1:{running.port}{request.raw_path}",
                headers={SECRET_HEADER: running.secret},
                max_msg_size=_LARGEST_MESSAGE_BYTES,
                compress=0,
            ) as there:
                ways = [asyncio.create_task(_pump(here, there)), asyncio.create_task(_pump(there, here))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        except aiohttp.ClientError:
            pass  # the page says that the connection is lost
        finally:
            running.pages -= 1
            running.last_seen_s = time.monotonic()
            await here.close()
        return here

    async def _start(self, _application: web.Application) -> None:
        await self._sessions.open()
        timeout = aiohttp.ClientTimeout(total=None, connect=10)
        self._client = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)

    async def _stop(self, _application: web.Application) -> None:
        if self._client is not None:
            await self._client.close()
        await self._sessions.close()


async def serve(
    orders: Orders,
    *,
    host: str,
    port: int,
    token: str,
    tls: ssl.SSLContext | None,
    ready: Callable[[int], None],
) -> None:
    """Serve until the process is asked to end.

    Parameters
    ----------
    orders : Orders
    host : str
    port : int
        0: any that is free.
    token : str
        Empty only on loopback.
    tls : ssl.SSLContext, optional
    ready : callable (port)
        Called once pages are answered.

    Raises
    ------
    UsageError
        No token on an address that others reach, or an address that can't be had.
    """
    if not token and not is_loopback(host):
        raise UsageError(f"{host} can be reached from other computers, where a token is needed; leave --no-token out.")
    try:
        server_socket = web_socket(host, port)
    except OSError as error:
        raise UsageError(
            f"{host}, port {port}, can't be had ({error.strerror or error}). Choose another --port."
        ) from error
    port = server_socket.getsockname()[1]
    sessions = Sessions(orders)
    gateway = Gateway(sessions, token, port, secure=tls is not None)
    runner = web.AppRunner(gateway.application(), access_log=None, shutdown_timeout=2.0)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, ended.set)
    try:
        await runner.setup()
        await web.SockSite(runner, server_socket, ssl_context=tls).start()
        ready(port)
        await ended.wait()
    finally:
        await runner.cleanup()
        await sessions.close()


def web_socket(host: str, port: int) -> Any:
    """Return a listening socket, so that the port is known before anything starts."""
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=64)


async def _pump(source: Any, sink: Any) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await sink.send_bytes(message.data)


def _same_origin(request: web.Request) -> bool:
    """Return whether a request, if a page made it, was made by a page of this server."""
    origin = request.headers.get("Origin")
    if origin is None:
        return request.method in ("GET", "HEAD") and request.headers.get("Upgrade") is None
    return urlsplit(origin).netloc == request.host


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def _page(status: int, title: str, text: str, more: str = "") -> web.Response:
    content = _PAGE.format(title=escape(title), text=escape(text), more=more)
    return web.Response(status=status, text=content, content_type="text/html")
