"""Who is let in, and to which session; with a stand-in for the sessions' processes."""

import asyncio
import contextlib
import socket

import pytest

aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra 'web')")
pytestmark = pytest.mark.web

from aiohttp import web  # noqa: E402

from PerfusionCBVLib.cli import main  # noqa: E402
from PerfusionCBVLib.errors import UsageError  # noqa: E402
from PerfusionCBVLib.web.gateway import Gateway, is_loopback  # noqa: E402
from PerfusionCBVLib.web.sessions import SECRET_HEADER, Orders, Running  # noqa: E402

TOKEN = "a-token-for-the-tests-only"


class StandIn:
    """Sessions that are all answered by one server, which tells what it was asked."""

    def __init__(self, most=2):
        self.orders = Orders(None, None, 1000, most, 60.0)
        self.running = {}

    async def open(self):
        async def tell(request):
            asked = {"secret": request.headers.get(SECRET_HEADER), "path": request.raw_path}
            return web.json_response({**asked, "cookie": request.headers.get("Cookie")})

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", tell)
        self.runner = web.AppRunner(application)
        await self.runner.setup()
        place = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(self.runner, place).start()
        self.port = place.getsockname()[1]

    async def close(self):
        await self.runner.cleanup()

    def find(self, key):
        return self.running.get(key)

    async def new(self):
        if len(self.running) >= self.orders.most:
            raise UsageError("All places on this server are taken.")
        key = f"session-{len(self.running)}"
        self.running[key] = Running(None, None, f"secret of {key}", self.port)
        return key

    async def end(self, key):
        self.running.pop(key)


def asking(story, *, token=TOKEN, sessions=None):
    """Run a story, an async function of (address, a function that gives another browser)."""

    async def run():
        place = socket.create_server(("127.0.0.1", 0))
        port = place.getsockname()[1]
        gateway = Gateway(sessions or StandIn(), token, port, secure=False)
        runner = web.AppRunner(gateway.application())
        await runner.setup()
        await web.SockSite(runner, place).start()
        async with contextlib.AsyncExitStack() as stack:

            async def browser():
                jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address without a name
                return await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))

            await story(f"http://127.0.0.1:{port}", browser)
        await runner.cleanup()

    asyncio.run(run())


def test_each_browser_gets_a_session_of_its_own_and_keeps_it():
    async def story(address, browser):
        told = []
        for one in (await browser(), await browser()):
            async with one.get(f"{address}/?token={TOKEN}") as first:
                assert first.url.query_string == ""
                told.append(await first.json())
            async with one.get(f"{address}/any/path?x=1") as second:
                again = await second.json()
            assert again["secret"] == told[-1]["secret"]
            assert again["path"] == "/any/path?x=1"
            assert again["cookie"] is None, "the session's process does not see the cookie"
        assert told[0]["secret"] != told[1]["secret"]

    asking(story)


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", f"?token={TOKEN}x", "?token=%C3%A9"])
def test_a_wrong_token_gives_no_session(query):
    sessions = StandIn()

    async def story(address, browser):
        async with (await browser()).get(f"{address}/{query}") as refused:
            assert refused.status == 401
            assert TOKEN not in await refused.text()
        assert sessions.running == {}

    asking(story, sessions=sessions)


def test_requests_that_another_page_makes_are_refused():
    async def story(address, browser):
        one = await browser()
        async with one.get(f"{address}/?token={TOKEN}") as entered:
            assert entered.status == 200
        elsewhere = {"Origin": "http://evil.example"}
        async with one.post(f"{address}/upload/x/a.zip", data=b"x", headers=elsewhere) as refused:
            assert refused.status == 403
        async with one.post(f"{address}/end", headers=elsewhere) as refused:
            assert refused.status == 401
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await one.ws_connect(f"{address}/ws", headers=elsewhere)
        async with one.post(f"{address}/upload/x/a.zip", data=b"x", headers={"Origin": address}) as taken:
            assert taken.status == 200

    asking(story)


def test_an_upload_that_announces_more_than_the_limit_is_refused_before_it_is_read():
    async def story(address, browser):
        one = await browser()
        async with one.get(f"{address}/?token={TOKEN}"):
            pass
        async with one.post(f"{address}/upload/x/a.zip", data=bytes(1001), headers={"Origin": address}) as refused:
            assert refused.status == 413
            assert "--upload-limit" in await refused.text()

    asking(story)


def test_a_full_server_says_so_and_an_ended_session_frees_its_place():
    async def story(address, browser):
        one, other = await browser(), await browser()
        async with one.get(f"{address}/?token={TOKEN}") as entered:
            assert entered.status == 200
        async with other.get(f"{address}/?token={TOKEN}") as refused:
            assert refused.status == 503
            assert "places" in await refused.text()
        async with one.post(f"{address}/end", headers={"Origin": address}) as ended:
            assert ended.status == 200
        async with one.get(f"{address}/any") as gone:
            assert gone.status == 401
        async with other.get(f"{address}/?token={TOKEN}") as entered:
            assert entered.status == 200

    asking(story, sessions=StandIn(most=1))


def test_without_a_token_only_localhost_is_answered():
    async def story(address, browser):
        one = await browser()
        async with one.get(f"{address}/", headers={"Host": "rebound.example"}) as refused:
            assert refused.status == 403
        async with one.get(f"{address}/") as entered:
            assert entered.status == 200

    asking(story, token="")


def test_no_page_loads_anything_from_other_servers_or_into_other_pages():
    async def story(address, browser):
        async with (await browser()).get(f"{address}/?token={TOKEN}") as page:
            policy = page.headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy
            assert "http" not in policy
            assert page.headers["X-Frame-Options"] == "DENY"
            assert page.headers["Referrer-Policy"] == "no-referrer"

    asking(story)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *(("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.8.8", True)),
        *(("0.0.0.0", False), ("::", False), ("192.168.1.5", False), ("server.example", False)),
    ],
)
def test_only_this_computers_own_addresses_are_loopback(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0", "--no-token"], "token is needed"),
        (["--root", "/no/such/folder"], "is no folder"),
        (["--key", "key.pem"], "belong together"),
    ],
)
def test_the_command_refuses_what_is_unsafe_or_impossible(options, said, capsys):
    pytest.importorskip("trame")
    assert main(["view", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_short_token_is_refused(monkeypatch, capsys):
    pytest.importorskip("trame")
    monkeypatch.setenv("PERFUSIONCBV_TOKEN", "secret")
    assert main(["view"]) == 2
    assert "16 are needed" in capsys.readouterr().err


def test_an_input_that_is_not_there_is_refused(capsys):
    assert main(["view", "/no/such/series"]) == 3
    assert "There is no file" in capsys.readouterr().err
