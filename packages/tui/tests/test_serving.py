"""`sinergym-tui --serve`: a page for who has the key, and for nobody else."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

COMMAND = str(Path(sys.executable).with_name("sinergym-tui"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address that the command says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [COMMAND, "--serve", "--port", str(port), "--project", "none"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + 30
        while not (found := re.search(r"open (http://\S+) ", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.slow
def test_the_page_needs_the_key(address: str) -> None:
    """With the key there is a page and a cookie; without it, nothing at all."""
    home = address.partition("?")[0]
    for url in (home, f"{home}ws", f"{home}static/js/textual.js", f"{home}?key=guess"):
        assert requests.get(url, timeout=10).status_code == 403
    visit = requests.Session()
    assert "textual" in visit.get(address, timeout=10).text
    assert "SameSite=Strict" in str(
        requests.get(address, timeout=10, allow_redirects=False).headers
    )
    assert visit.get(home, timeout=10).status_code == 200
    assert visit.get(f"{home}static/js/textual.js", timeout=10).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example:8000"}]
)
def test_no_other_site_gets_in(address: str, headers: dict[str, str]) -> None:
    """Not even with the cookie: a page of another site, or a name that leads here."""
    visit = requests.Session()
    visit.get(address, timeout=10)
    home = address.partition("?")[0]
    key = address.partition("key=")[2]
    answer = visit.get(
        f"{home}ws", headers={**headers, "Cookie": f"sinergym-tui={key}"}, timeout=10
    )
    assert answer.status_code == 403
