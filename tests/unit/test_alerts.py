"""Alerts reach every channel that is asked for, and what fails is named and harms nobody."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import logging
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from batch.alerts import DRIFT, TASK_FAILED, alert
from batch.pipeline import Pipeline
from riskflow.errors import DeclarationError
from riskflow.settings import load

NOWHERE = "127.0.0.1:9"  # the port of `discard`: nobody listens


def pipeline(tmp_path: Path, alerts: str) -> Pipeline:
    path = tmp_path / "pipeline.yaml"
    path.write_text(f"alerts: {alerts}\n")
    return Pipeline.load(path)


def raised(tmp_path: Path, alerts: str, kind: str = DRIFT, **settings: Any) -> dict[str, str]:
    conf = load(home=tmp_path, **{"kafka": NOWHERE, **settings})
    return alert(conf, pipeline(tmp_path, alerts), "card_fraud", kind, "amounts have drifted", {"psi": 0.31})


@contextmanager
def served(server: socketserver.BaseServer) -> Iterator[int]:
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


class Hook(BaseHTTPRequestHandler):
    posted: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(500 if self.path == "/broken" else 204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Post(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs that sends one mail."""

    mails: list[str]

    def handle(self) -> None:
        self._say("220 here")
        while line := self.rfile.readline().decode().strip():
            if line.upper() == "DATA":
                self._say("354 go on")
                self.mails.append("".join(iter(lambda: self.rfile.readline().decode(), ".\r\n")))
            self._say("221 bye" if line.upper() == "QUIT" else "250 fine")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class MailServer(socketserver.ThreadingTCPServer):
    """SMTP with STARTTLS and AUTH PLAIN where it has a certificate; at_once: TLS from the first byte."""

    daemon_threads = True

    def __init__(self, certificate: Path | None, at_once: bool) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.tls: ssl.SSLContext | None = None
        self.at_once, self.secured = at_once, 0
        self.logins: list[tuple[str, str, str]] = []
        self.mails: list[str] = []
        if certificate is not None:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(certificate)


class Session(socketserver.StreamRequestHandler):
    """One client's."""

    server: MailServer

    def handle(self) -> None:
        self.clear = True
        with contextlib.suppress(ssl.SSLError, ConnectionError):  # a client that does not trust us goes away
            if self.server.at_once:
                self._secure()
            self._say("220 here")
            while line := self.rfile.readline().decode().strip():
                getattr(self, f"_{line.split()[0].lower()}", self._fine)(line)

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def _secure(self) -> None:
        assert self.server.tls is not None
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        self.clear = False
        self.server.secured += 1
        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", buffering=0)

    def _ehlo(self, _: str) -> None:
        self._say("250-here")
        if self.server.tls is not None and self.clear:
            self._say("250-STARTTLS")
        self._say("250 AUTH PLAIN")

    def _starttls(self, _: str) -> None:
        self._say("220 go on")
        self._secure()

    def _auth(self, line: str) -> None:
        _, user, password = base64.b64decode(line.split()[2]).decode().split("\0")
        self.server.logins.append(("clear" if self.clear else "TLS", user, password))
        self._say("235 welcome")

    def _data(self, _: str) -> None:
        self._say("354 go on")
        self.server.mails.append("".join(iter(lambda: self.rfile.readline().decode(), ".\r\n")))
        self._say("250 fine")

    def _quit(self, _: str) -> None:
        self._say("221 bye")

    def _fine(self, _: str) -> None:
        self._say("250 fine")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def mail_server(certificate: Path | None, at_once: bool = False) -> Iterator[tuple[int, MailServer]]:
    server = MailServer(certificate, at_once)
    with served(server) as port:
        yield port, server


def mailed(tmp_path: Path, address: str) -> str:
    return raised(tmp_path, "{mail: [a@bank.example], log: false}", smtp=address)["mail"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    begin = datetime.now(UTC) - timedelta(days=1)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), begin, begin + timedelta(9)
    )
    signed = made.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    path: Path = tmp_path_factory.mktemp("mail") / "mail.pem"
    plain = (form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    path.write_bytes(key.private_bytes(*plain) + signed.public_bytes(form.Encoding.PEM))
    return path


def test_by_default_an_alert_is_a_warning_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert raised(tmp_path, "{}") == {"log": "sent"}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == 'alert drift of card_fraud: amounts have drifted {"psi": 0.31}'


def test_kinds_that_are_not_asked_for_are_not_raised(tmp_path: Path) -> None:
    assert raised(tmp_path, "{kinds: [drift]}", TASK_FAILED) == {}
    assert raised(tmp_path, "{kinds: [drift]}", DRIFT) == {"log": "sent"}


def test_a_webhook_gets_the_alert_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hook.posted = []
    with served(HTTPServer(("127.0.0.1", 0), Hook)) as port:
        monkeypatch.setenv("TEAM_HOOK", f"http://127.0.0.1:{port}/secret")
        assert raised(tmp_path, "{webhook: 'env:TEAM_HOOK', log: false}") == {"webhook": "sent"}
    (message,) = Hook.posted
    assert message.pop("at_ms") > 1_700_000_000_000
    assert message == {
        "usecase": "card_fraud", "kind": "drift", "text": "amounts have drifted", "about": {"psi": 0.31}
    }  # fmt: skip


def test_mail_goes_to_everybody_by_the_configured_server(tmp_path: Path) -> None:
    Post.mails = []
    with served(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Post)) as port:
        sent = raised(tmp_path, "{mail: [a@bank.example, b@bank.example]}", smtp=f"smtp://127.0.0.1:{port}")
    assert sent["mail"] == "sent"
    (mail,) = Post.mails
    assert "To: a@bank.example, b@bank.example" in mail
    assert "Subject: [riskflow] card_fraud: drift" in mail
    assert "amounts have drifted" in mail


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_login_goes_by_a_verified_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: Path, scheme: str
) -> None:
    monkeypatch.setattr("batch.alerts.LOCAL", ())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mail_server(certificate, at_once=scheme == "smtps") as (port, server):
        assert mailed(tmp_path, f"{scheme}://desk:secret@127.0.0.1:{port}") == "sent"
    assert server.logins == [("TLS", "desk", "secret")]
    assert len(server.mails) == 1


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_login_is_not_sent_to_a_server_that_nobody_vouches_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: Path, scheme: str
) -> None:
    monkeypatch.setattr("batch.alerts.LOCAL", ())
    with mail_server(certificate, at_once=scheme == "smtps") as (port, server):
        assert "CERTIFICATE_VERIFY_FAILED" in mailed(tmp_path, f"{scheme}://desk:secret@127.0.0.1:{port}")
    assert (server.logins, server.mails) == ([], [])


def test_a_login_is_never_sent_in_clear_but_to_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(None) as (port, server):
        address = f"smtp://desk:secret@127.0.0.1:{port}"
        assert mailed(tmp_path, address) == "sent"
        monkeypatch.setattr("batch.alerts.LOCAL", ())
        assert "127.0.0.1 offers no TLS, so the login of RISKFLOW_SMTP was not sent" in mailed(tmp_path, address)
    assert server.logins == [("clear", "desk", "secret")]
    assert len(server.mails) == 1


def test_without_a_login_tls_is_taken_where_it_is_offered(tmp_path: Path, certificate: Path) -> None:
    with mail_server(certificate) as (port, server):
        assert mailed(tmp_path, f"smtp://127.0.0.1:{port}") == "sent"
    assert server.secured == 1
    assert len(server.mails) == 1


def test_a_channel_that_fails_is_named_in_the_log_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Hook.posted = []
    with served(HTTPServer(("127.0.0.1", 0), Hook)) as port:
        address = f"http://127.0.0.1:{port}/broken"
        sent = raised(tmp_path, f"{{topic: true, webhook: '{address}', mail: [a@bank.example]}}")
    assert sent["log"] == "sent"
    assert "does not answer" in sent["topic"]
    assert "500" in sent["webhook"]
    assert "RISKFLOW_SMTP" in sent["mail"]
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert [line.split(":")[0] for line in errors] == [
        f"alert drift of card_fraud did not get out by {channel}" for channel in ("topic", "webhook", "mail")
    ]


def test_what_is_no_json_does_not_break_an_alert(tmp_path: Path) -> None:
    conf = load(home=tmp_path)
    assert alert(conf, pipeline(tmp_path, "{}"), "u", DRIFT, "text", {"path": tmp_path}) == {"log": "sent"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{webhook: example.org}", r"line 1, alerts\.webhook: 'example\.org' is no address"),
        ("{mail: [desk]}", r"line 1, alerts\.mail\[0\]: 'desk' is no address"),
        ("{kinds: [drfit]}", r"line 1, alerts\.kinds\[0\]: 'drfit' is not known\. Kinds: task_failed"),
        ("{topics: true}", r"line 1, alerts\.topics: .*Did you mean topic"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        pipeline(tmp_path, text)
