"""https by two flags, and one line where they do not fit."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from server.__main__ import main
from tests.server.examples import CHAT, body, events
from tests.server.fake_engine import FakeEngine
from tests.server.running import serve


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    """Certificate chain and key of 127.0.0.1."""
    issued = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return chain, key


def test_answers_and_streams_come_over_tls(authority: trustme.CA, files: tuple[Path, Path]) -> None:
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    chain, key = files
    with serve(FakeEngine(), verify=trusted, ssl_certfile=chain, ssl_keyfile=key) as url:
        assert url.startswith("https://")
        with httpx.Client(base_url=url, verify=trusted) as client:
            assert client.post(CHAT, json=body()).status_code == 200
            assert events(client.post(CHAT, json=body(stream=True)))


@pytest.mark.parametrize("wrong", ["no such key", "key of another", "key alone", "no certificate"])
def test_files_that_do_not_fit_end_in_one_line(
    wrong: str,
    files: tuple[Path, Path],
    authority: trustme.CA,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chain, key = files
    flags = ["--ssl-certfile", str(chain), "--ssl-keyfile", str(key), "--port", "0"]
    if wrong == "no such key":
        key.unlink()
    elif wrong == "key of another":
        key.write_bytes(authority.issue_cert("127.0.0.1").private_key_pem.bytes())
    elif wrong == "key alone":
        flags = flags[2:]
    else:
        chain.write_text("hello")
    assert main(flags) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("dyvte serve: --ssl-")
