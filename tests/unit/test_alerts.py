"""Alerts reach every channel that is asked for, and what fails is named and harms nobody."""

from __future__ import annotations

import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

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
