"""Alerts: to the log, a Kafka topic, a webhook, mail. An alert never breaks what raises it.

    alerts:
      log: true                        # a warning
      topic: false                     # JSON on `card_fraud.alerts`, which `riskflow topics` makes
      webhook: env:FRAUD_WEBHOOK       # a POST of the same JSON; `env:NAME` keeps a secret address out of the file
      mail: [fraud-desk@bank.example]  # by the server that RISKFLOW_SMTP names
      kinds: [task_failed, drift]      # which ones are raised; default: all

Every channel is tried; one that fails is named in the log.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from riskflow.errors import DeclarationError, RiskflowError

if TYPE_CHECKING:  # a DAG file reads this at every parse: nothing heavy here
    import smtplib

    from batch.pipeline import Pipeline
    from riskflow.settings import Settings

TASK_FAILED, LATE, DRIFT, DECAY, NO_LABELS, ROLLED_BACK, REFUSED = (
    "task_failed", "late", "drift", "decay", "no_labels", "rolled_back", "refused",
)  # fmt: skip
KINDS = (TASK_FAILED, LATE, DRIFT, DECAY, NO_LABELS, ROLLED_BACK, REFUSED)
ANSWER_S = 5.0
ENVIRONMENT = "env:"
LOG, SENT = "log", "sent"
LOCAL = ("localhost", "127.0.0.1", "::1")
_MAIL = re.compile(r"[^@\s]+@[^@\s]+")
_WEB = ("http://", "https://")

log = logging.getLogger(__name__)

Message = dict[str, Any]


class Alerts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where alerts go: section `alerts` of pipeline.yaml."""

    log: bool = True
    topic: bool = False
    webhook: str | None = None
    mail: list[str] = []
    kinds: list[str] = []

    def check(self, at: Callable[[str], str]) -> None:
        """Raises DeclarationError. at: the place in the file of a value's path."""
        if self.webhook is not None and not self.webhook.startswith((*_WEB, ENVIRONMENT)):
            raise DeclarationError(
                at("$.alerts.webhook"), f"{self.webhook!r} is no address", "Write http(s)://..., or env:NAME"
            )
        for i, address in enumerate(self.mail):
            if not _MAIL.fullmatch(address):
                raise DeclarationError(at(f"$.alerts.mail[{i}]"), f"{address!r} is no address", "Write name@host")
        for i, kind in enumerate(self.kinds):
            if kind not in KINDS:
                raise DeclarationError(
                    at(f"$.alerts.kinds[{i}]"), f"{kind!r} is not known", f"Kinds: {', '.join(KINDS)}"
                )


def alert(
    conf: Settings, pipeline: Pipeline, usecase: str, kind: str, text: str, about: Mapping[str, Any]
) -> dict[str, str]:
    """Raises an alert on every channel of the pipeline; returns channel -> "sent", or why not. It never raises.

    text: one sentence for people. about: JSON values, for programs.
    """
    asked = pipeline.file.alerts
    if asked.kinds and kind not in asked.kinds:
        return {}
    message = {"usecase": usecase, "kind": kind, "text": text, "at_ms": int(time.time() * 1000), "about": dict(about)}
    return {name: _try(name, message, send) for name, send in _channels(conf, asked, usecase).items()}


def got_out(answers: Mapping[str, str]) -> bool:
    """Whether an alert reached anybody; the log alone tells nobody where other channels are asked for as well."""
    others = [answer for channel, answer in answers.items() if channel != LOG]
    return SENT in (others or answers.values())


def _channels(conf: Settings, asked: Alerts, usecase: str) -> dict[str, Callable[[Message], None]]:
    channels: dict[str, Callable[[Message], None]] = {}
    if asked.log:
        channels[LOG] = _to_log
    if asked.topic:
        channels["topic"] = lambda message: _to_topic(conf, usecase, message)
    if asked.webhook:
        channels["webhook"] = lambda message: _to_webhook(str(asked.webhook), message)
    if asked.mail:
        channels["mail"] = lambda message: _to_mail(conf, asked.mail, message)
    return channels


def _try(channel: str, message: Message, send: Callable[[Message], None]) -> str:
    try:
        send(message)
    except Exception as error:  # whatever it is, the work that raised the alert goes on
        why = f"{type(error).__name__}: {error}"
        log.error("alert %s of %s did not get out by %s: %s", message["kind"], message["usecase"], channel, why)
        return why
    return SENT


def _json(message: Message) -> bytes:
    return json.dumps(message, default=str).encode()


def _to_log(message: Message) -> None:
    about = json.dumps(message["about"], default=str)
    log.warning("alert %s of %s: %s %s", message["kind"], message["usecase"], message["text"], about)


def _to_topic(conf: Settings, usecase: str, message: Message) -> None:
    from batch.produce import Outgoing, send
    from riskflow.names import Names

    topic = Names(usecase, prefix=conf.topic_prefix).alerts
    send([Outgoing(topic, message["kind"].encode(), _json(message), None)], conf.kafka)


def _to_webhook(address: str, message: Message) -> None:
    import urllib.request

    if address.startswith(ENVIRONMENT):
        name = address.removeprefix(ENVIRONMENT)
        address = os.environ.get(name, "").strip()  # an address with a space in it would be told in the log
        if not address.startswith(_WEB):
            raise RiskflowError(f"the environment has no address under {name}")
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, _json(message), headers, method="POST")
    with urllib.request.urlopen(request, timeout=ANSWER_S):
        pass


def _to_mail(conf: Settings, to: list[str], message: Message) -> None:
    from email.message import EmailMessage

    server = urllib.parse.urlsplit(conf.smtp.get_secret_value() if conf.smtp else "")
    if server.scheme not in ("smtp", "smtps"):
        raise RiskflowError("RISKFLOW_SMTP names no server: smtp://[user:password@]host[:port], or smtps://")
    mail = EmailMessage()
    mail["Subject"] = f"[riskflow] {message['usecase']}: {message['kind']}"
    mail["From"], mail["To"] = conf.mail_from, ", ".join(to)
    mail.set_content(f"{message['text']}\n\n{json.dumps(message['about'], indent=2, default=str)}\n")
    with _mail_server(server) as client:
        if server.username:
            client.login(urllib.parse.unquote(server.username), urllib.parse.unquote(server.password or ""))
        client.send_message(mail)


def _mail_server(server: urllib.parse.SplitResult) -> smtplib.SMTP:
    """Connected, with TLS where it is offered. A login goes by a connection that was verified, or not away."""
    import smtplib
    import ssl

    host, port, secret = server.hostname or "", server.port or 0, server.username and server.hostname not in LOCAL
    tls = ssl.create_default_context()
    if not secret:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if server.scheme == "smtps":
        return smtplib.SMTP_SSL(host, port, timeout=ANSWER_S, context=tls)
    client = smtplib.SMTP(host, port, timeout=ANSWER_S)
    try:
        client.ehlo()
        if client.has_extn("starttls"):
            client.starttls(context=tls)
        elif secret:
            raise RiskflowError(
                f"{host} offers no TLS, so the login of RISKFLOW_SMTP was not sent. Use smtps://, a server with "
                "STARTTLS, or an address without a password"
            )
    except BaseException:
        client.close()
        raise
    return client
