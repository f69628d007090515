"""Processes of sessions: each with a private folder, one started in advance, all ended and their folders deleted."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PerfusionCBVLib.errors import PerfusionError, UsageError

SECRET_HEADER = "X-PerfusionCBV-Secret"
"""By which a session's process knows the gateway."""

START_WITHIN_S = 120.0
LOOK_EVERY_S = 5.0


@dataclass(frozen=True)
class Orders:
    """What the server's start decides for every session.

    Attributes
    ----------
    input : Path or None
        Opened in every session.
    root : Path or None
        What may be opened by path.
    upload_limit_bytes : int
    most : int
        Sessions at a time.
    idle_s : float
        A session that no page has been open on for so long ends.
    """

    input: Path | None
    root: Path | None
    upload_limit_bytes: int
    most: int
    idle_s: float


@dataclass(eq=False)
class Running:
    """A session's process.

    Attributes
    ----------
    process : asyncio.subprocess.Process
    folder : Path
    secret : str
        Without which the process answers nobody.
    port : int
        On loopback.
    pages : int
        Open now.
    last_seen_s : float
        Monotonic clock, when a page was open last.
    """

    process: Any
    folder: Path
    secret: str
    port: int = 0
    pages: int = 0
    last_seen_s: float = field(default_factory=time.monotonic)

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process.returncode is None


class Sessions:
    """All sessions of a server.

    Parameters
    ----------
    orders : Orders
    """

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self._running: dict[str, Running] = {}
        self._spare: asyncio.Task[Running] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._base = Path(tempfile.mkdtemp(prefix="perfusion-cbv-view-"))  # for this user only
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Start a process in advance, and look after the others."""
        self._spare = asyncio.create_task(self._start())
        self._watch = asyncio.create_task(self._look_after())
        await asyncio.shield(self._spare)

    def find(self, key: str) -> Running | None:
        """Return a session that runs, or None."""
        found = self._running.get(key)
        return found if found is not None and found.alive else None

    async def new(self) -> str:
        """Return the key of a new session, which is its cookie.

        Raises
        ------
        UsageError
            All places are taken.
        PerfusionError
            Its process did not start.
        """
        async with self._lock:
            await self._remove_dead()
            if len(self._running) >= self.orders.most:
                raise UsageError(
                    f"All {self.orders.most} places on this server are taken. Try again later, or ask for one to be "
                    "ended."
                )
            task = self._spare or asyncio.create_task(self._start())
            self._spare = None
            running = await task
            if not running.alive:
                running = await self._start()
            key = secrets.token_urlsafe(32)
            running.last_seen_s = time.monotonic()
            self._running[key] = running
            self._prepare()
            return key

    def _prepare(self) -> None:
        """Start a process in advance where there is none and a place is left."""
        if self._spare is None and len(self._running) < self.orders.most:
            self._spare = asyncio.create_task(self._start(delay_s=2.0))

    async def end(self, key: str) -> None:
        """End a session, and delete what it kept."""
        running = self._running.pop(key, None)
        if running is not None:
            await _end(running)
            self._prepare()

    async def close(self) -> None:
        """End all sessions."""
        if self._watch is not None:
            self._watch.cancel()
        for running in self._running.values():
            await _end(running)
        self._running.clear()
        if self._spare is not None:
            self._spare.cancel()
            (spare,) = await asyncio.gather(self._spare, return_exceptions=True)
            if isinstance(spare, Running):
                await _end(spare)
            self._spare = None
        shutil.rmtree(self._base, ignore_errors=True)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._remove_dead()

    async def _remove_dead(self) -> None:
        now = time.monotonic()
        for key, running in list(self._running.items()):
            idle = not running.pages and now - running.last_seen_s > self.orders.idle_s
            if idle or not running.alive:
                await self.end(key)

    async def _start(self, delay_s: float = 0.0) -> Running:
        """Return a process that is ready to answer; `delay_s` leaves the machine to a page that is opening."""
        await asyncio.sleep(delay_s)
        folder = Path(tempfile.mkdtemp(prefix="session-", dir=self._base))
        secret = secrets.token_urlsafe(32)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "PerfusionCBVLib.web.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": _python_path()},
            start_new_session=True,  # Ctrl-C is the server's; it ends its sessions itself
        )
        running = Running(process, folder, secret)
        orders = {
            "folder": str(folder),
            "secret": secret,
            "root": str(self.orders.root.resolve()) if self.orders.root else "",
            "input": str(self.orders.input.resolve()) if self.orders.input else "",
            "upload_limit_bytes": self.orders.upload_limit_bytes,
        }
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(orders).encode() + b"\n")
            await process.stdin.drain()
            line = await asyncio.wait_for(process.stdout.readline(), START_WITHIN_S)
            running.port = int(json.loads(line)["port"])
        except asyncio.CancelledError:
            await _end(running)
            raise
        except (TimeoutError, ValueError, OSError, KeyError) as error:
            await _end(running)
            raise PerfusionError("The process of a session did not start; what it said stands above.") from error
        return running


async def _end(running: Running) -> None:
    try:
        if running.alive:
            running.process.terminate()
            try:
                await asyncio.wait_for(running.process.wait(), 5.0)
            except TimeoutError:
                running.process.kill()
                await running.process.wait()
    except ProcessLookupError:
        pass
    finally:
        shutil.rmtree(running.folder, ignore_errors=True)
        if running.folder.exists():
            logging.getLogger(__name__).warning("%s could not be deleted", running.folder)


def _python_path() -> str:
    """Return the path on which this very library is found, also where it is not installed."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
