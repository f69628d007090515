"""Run commands of the command line with the network refused and temporary files looked at; a script of its own.

    python watched_run.py COMMANDS.json REPORT.json

COMMANDS.json lists argument lists for `perfusion-cbv`. REPORT.json gets exit codes, every attempt to reach a network,
and the permissions that temporary folders had while another program worked in them. Python's audit events see what no
replaced function could: a connection that a library makes by another name.
"""

import json
import os
import socket
import stat
import sys
import tempfile
from pathlib import Path

REFUSED = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
attempts: list[str] = []
temporary: list[dict] = []


def refuse(event, arguments):
    if event in REFUSED and not _is_local(arguments):
        attempts.append(f"{event} {arguments!r}")
        raise OSError("this run may not use the network")
    if event in ("urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect"):
        if str(arguments[0]).startswith("data:"):
            return
        attempts.append(f"{event} {arguments!r}")
        raise OSError("this run may not use the network")
    if event == "subprocess.Popen":
        look()


def _is_local(arguments):
    """Whether a socket stays within this computer's files or, as urllib3 does to learn of IPv6, only takes a port."""
    to_itself = len(arguments) > 1 and isinstance(arguments[1], tuple) and arguments[1] == ("::1", 0)
    return to_itself or getattr(arguments[0], "family", None) == getattr(socket, "AF_UNIX", object())


def look():
    folder = Path(tempfile.gettempdir())
    temporary.extend({"name": path.name, "mode": stat.S_IMODE(path.stat().st_mode)} for path in folder.iterdir())


def main(commands, report):
    sys.addaudithook(refuse)
    from PerfusionCBVLib.cli import main as run

    codes = [run(arguments) for arguments in json.loads(Path(commands).read_text("utf-8"))]
    facts = {"codes": codes, "attempts": attempts, "temporary": temporary, "left": os.listdir(tempfile.gettempdir())}
    Path(report).write_text(json.dumps(facts), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
