"""Delivery of notifications, and the inbox that has them all.

A webhook gets an HTTP POST, an e-mail address a message by the SMTP server that the cloud was
given; both on loopback only. What can't be delivered here, because there is no Slack and no
telephone in this cloud, arrives in the inbox. A delivery that fails in passing is tried again;
one that was taken never is.
"""

import asyncio
import base64
import contextlib
import ipaddress
import itertools
import logging
import smtplib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from gcp_emulator.iam.kept import keep, read_kept
from gcp_emulator.monitoring.texts import Notification
from gcp_emulator.replies import Json

__all__ = ["Inbox", "parse_smtp"]

_log = logging.getLogger(__name__)

_ATTEMPTS: Final = 8
_PATIENCE: Final = 10.0
_AT_ONCE: Final = 8
_MOST_KEPT: Final = 2_000
_SENDER: Final = "Cloud Monitoring (local) <alerting-noreply@localhost>"


class _Refused(Exception):
    """It will not be taken, however often it is tried."""


class Inbox:
    """All notifications, and what became of each.

    Args:
        file: Where they are kept.
        smtp: Host and port of the SMTP server for e-mails; without one they stay in the inbox.
        changed: Called when there is something to `save`.
        first_pause: Seconds until the second attempt; each pause is twice the last one.
        now: The time, in seconds since 1970.

    Raises:
        ValueError: The file can't be read.
    """

    def __init__(
        self,
        file: Path,
        *,
        smtp: tuple[str, int] | None,
        changed: Callable[[], object] = lambda: None,
        first_pause: float = 0.5,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._smtp = smtp
        self._changed = changed
        self._first_pause = first_pause
        self._now = now
        self._entries: list[Json] = read_kept(file) or []
        for entry in self._entries:
            if entry["state"] == "sending":
                entry.update(state="failed", reason="the cloud ended before it was taken")
        self._ids = itertools.count(max((e["id"] for e in self._entries), default=0) + 1)
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        self._is_dirty = False

    @property
    def entries(self) -> list[Json]:
        """What was sent, oldest first: time, channel, type, to, subject, body, state, reason."""
        return [dict(entry) for entry in self._entries]

    def send(self, channel: Any, message: Notification, *, why_not: str = "") -> None:
        """Begin to deliver.

        Args:
            channel: The channel, a ``google.monitoring.v3.NotificationChannel`` with its secrets.
            message: What.
            why_not: Why it can't be delivered; then it is only kept.
        """
        entry: Json = {
            "id": next(self._ids),
            "time": _rfc3339(self._now()),
            "channel": channel.name,
            "channel_name": channel.display_name,
            "type": channel.type_,
            "to": _shown_address(channel),
            "event": message.event,
            "policy": message.policy,
            "incident": message.incident,
            "subject": message.subject,
            "body": message.text,
            "state": "sending",
            "reason": "",
            "attempts": 0,
        }
        self._entries = [*self._entries[-_MOST_KEPT + 1 :], entry]
        self._is_dirty = True
        self._changed()
        if why_not:
            entry.update(state="undeliverable", reason=why_not)
            return
        attempt = self._way(channel, message)
        if isinstance(attempt, str):
            entry.update(state="inbox", reason=attempt)
            return
        task = asyncio.create_task(self._deliver(entry, attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def save(self) -> None:
        """Keep what has changed."""
        if self._is_dirty:
            self._is_dirty = False
            keep(self._file, self._entries)

    async def close(self) -> None:
        """End what is under way, and keep all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        self.save()

    def _way(self, channel: Any, message: Notification) -> Callable[[], Any] | str:
        """One attempt at delivery; or why there is no way."""
        labels = dict(channel.labels)
        if channel.type_ == "email":
            if self._smtp is None:
                return "the cloud was given no SMTP server (gcp-emulator serve --smtp HOST:PORT)"
            host, port = self._smtp
            mail = _mail(labels["email_address"], message, self._now())
            return lambda: asyncio.to_thread(_send_mail, host, port, mail)
        if channel.type_ in ("webhook_tokenauth", "webhook_basicauth"):
            url = labels["url"]
            if not _is_loopback(urlsplit(url).hostname or ""):
                return "the URL is not on this machine: the local cloud sends to loopback only"
            headers = {"User-Agent": "Google-Alerts"}
            if channel.type_ == "webhook_basicauth":
                pair = f"{labels['username']}:{labels['password']}".encode()
                headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
            return lambda: self._post(url, message.body, headers)
        return f"there is no {channel.type_} in the local cloud"

    async def _deliver(self, entry: Json, attempt: Callable[[], Any]) -> None:
        pause = self._first_pause
        for number in range(1, _ATTEMPTS + 1):
            entry["attempts"] = number
            try:
                async with self._gate:
                    await attempt()
            except _Refused as error:
                self._settle(entry, "failed", str(error))
                return
            except (TimeoutError, OSError, aiohttp.ClientError, smtplib.SMTPException) as error:
                entry["reason"] = _reason(error)
            else:
                self._settle(entry, "delivered", "")
                return
            if number < _ATTEMPTS:
                await asyncio.sleep(pause)
                pause *= 2
        self._settle(entry, "failed", entry["reason"])

    def _settle(self, entry: Json, state: str, reason: str) -> None:
        entry.update(state=state, reason=reason)
        self._is_dirty = True
        self._changed()
        if state == "failed":
            _log.warning("notification to %s failed: %s", entry["to"], reason)

    async def _post(self, url: str, body: Json, headers: dict[str, str]) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_PATIENCE), trust_env=False
            )
        async with self._session.post(
            url, json=body, headers=headers, allow_redirects=False
        ) as reply:
            if 200 <= reply.status < 300:
                return
            if reply.status == 429 or reply.status >= 500:
                raise aiohttp.ClientError(f"HTTP {reply.status}")
            raise _Refused(f"HTTP {reply.status}")


def parse_smtp(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``.

    Raises:
        ValueError: They are none, or not on loopback.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise ValueError(f"{text!r}: HOST:PORT is expected, such as 127.0.0.1:2525")
    if not _is_loopback(host):
        raise ValueError(f"{text!r}: the local cloud sends to loopback only; use 127.0.0.1:PORT")
    return host, int(port)


def _send_mail(host: str, port: int, mail: EmailMessage) -> None:
    with contextlib.ExitStack() as stack:
        server = smtplib.SMTP(host, port, timeout=_PATIENCE)
        stack.callback(_quit, server)
        try:
            server.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            code, text = next(iter(error.recipients.values()))
            _refuse(code, text)
            raise
        except smtplib.SMTPResponseException as error:
            _refuse(error.smtp_code, error.smtp_error)
            raise


def _quit(server: smtplib.SMTP) -> None:
    """Say goodbye; the message has been taken already, whatever comes of that."""
    with contextlib.suppress(smtplib.SMTPException, OSError):
        server.quit()
    server.close()


def _refuse(code: int, text: bytes | str) -> None:
    if code >= 500:
        shown = text.decode(errors="replace") if isinstance(text, bytes) else text
        raise _Refused(f"SMTP {code} {shown}")


def _mail(address: str, message: Notification, now: float) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = message.subject
    mail["From"] = _SENDER
    mail["To"] = address
    mail["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    mail["Message-ID"] = make_msgid(domain="localhost")
    if message.incident:
        mail["X-Incident"] = message.incident
    mail.set_content(message.text)
    return mail


def _shown_address(channel: Any) -> str:
    """Where a channel leads, without what is secret."""
    labels = channel.labels
    for key in ("email_address", "number", "topic", "channel_name"):
        if labels.get(key):
            return str(labels[key])
    if labels.get("url"):
        parts = urlsplit(labels["url"])
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{host}{port}{parts.path}"
    return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(error: Exception) -> str:
    """Why an attempt failed; the words of some errors have the URL, and so its token."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.strerror or type(error.os_error).__name__}"
    if type(error) is aiohttp.ClientError:
        return str(error)
    if isinstance(error, smtplib.SMTPResponseException):
        return f"SMTP {error.smtp_code}"
    return type(error).__name__


def _rfc3339(moment: float) -> str:
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
