"""A real Orthanc (Debian package orthanc) on loopback, for tests that send to a PACS."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

WEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AET = "TESTPACS"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Orthanc:
    """A real Orthanc in a folder of its own, on loopback."""

    def __init__(self, folder: Path, **options) -> None:
        self.executable = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
        if self.executable is None:
            pytest.skip("Orthanc (Debian package orthanc) is not installed")
        self.port, self.http_port = free_port(), free_port()
        has_web = WEB_PLUGIN.exists()
        self.web = f"http://127.0.0.1:{self.http_port}/dicom-web" if has_web else None
        configuration = {
            "StorageDirectory": str(folder), "IndexDirectory": str(folder), "DicomAet": AET, "DicomPort": self.port,
            "HttpPort": self.http_port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
            "DicomCheckCalledAet": True, "Plugins": [str(WEB_PLUGIN)] if has_web else [], **options,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(configuration), "utf-8")
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [self.executable, str(folder / "orthanc.json")], stdout=self.log, stderr=subprocess.STDOUT
        )
        for _ in range(300):
            try:
                self.get("/system")
                return
            except (urllib.error.URLError, ConnectionError):
                assert self.process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        self.stop()
        pytest.fail("Orthanc did not start within 30 s")

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            return answer.read()

    def file_of(self, uid: str) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}/tools/lookup", data=uid.encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            (found,) = [one for one in json.load(answer) if one["Type"] == "Instance"]
        return self.get(f"/instances/{found['ID']}/file")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


def after_the_header(content: bytes) -> bytes:
    """What follows preamble and file meta information: the dataset's own bytes."""
    assert content[128:132] == b"DICM"
    assert content[132:136] == b"\x02\x00\x00\x00", "the group starts with its length"
    return content[144 + int.from_bytes(content[140:144], "little") :]
