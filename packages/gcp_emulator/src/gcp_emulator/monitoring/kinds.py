"""The types of notification channels: their labels, and what a channel of a type must have.

https://cloud.google.com/monitoring/alerts/using-channels-api#ncd
"""

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from google.api import label_pb2, launch_stage_pb2
from google.cloud.monitoring_v3 import types

from gcp_emulator.iam.errors import invalid_argument
from gcp_emulator.monitoring.collection import check_user_labels

__all__ = ["KINDS", "Kind", "check", "descriptor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A type of channel; labels by their key, with a description each."""

    title: str
    text: str
    labels: dict[str, str]
    sensitive: frozenset[str] = frozenset()
    verified: bool = False
    """Whether it must be verified before it works."""


# As https://cloud.google.com/monitoring/alerts/using-channels-api#ncd lists them.
KINDS: Final = {
    "email": Kind(
        title="Email",
        text="A channel that sends notifications via email.",
        labels={"email_address": "An address to send email."},
    ),
    "pagerduty": Kind(
        title="PagerDuty",
        text="A channel that sends notifications to PagerDuty.",
        labels={"service_key": "The service key to identify the PagerDuty service."},
        sensitive=frozenset({"service_key"}),
    ),
    "pubsub": Kind(
        title="Google Cloud Pub/Sub",
        text="A channel that publishes notifications to a Cloud Pub/Sub topic.",
        labels={"topic": "The topic to publish to: projects/PROJECT/topics/TOPIC."},
    ),
    "slack": Kind(
        title="Slack",
        text="A channel that sends notifications to Slack.",
        labels={
            "auth_token": "The OAuth access token that gives the permission to post.",
            "channel_name": "The Slack channel to post to, such as #alerts.",
        },
        sensitive=frozenset({"auth_token"}),
    ),
    "sms": Kind(
        title="SMS",
        text="A channel that sends notifications via Short Message Service (SMS).",
        labels={"number": "A phone number in E.164 format, such as +15551234567."},
        verified=True,
    ),
    "webhook_basicauth": Kind(
        title="Webhook with Basic Authentication",
        text="A channel that posts notifications to a URL, with HTTP basic authentication.",
        labels={
            "password": "The password for the basic authentication.",
            "url": "The public URL of the server that receives notifications.",
            "username": "The name of the user for the basic authentication.",
        },
        sensitive=frozenset({"password"}),
    ),
    "webhook_tokenauth": Kind(
        title="Webhook with Token Authentication",
        text="A channel that posts notifications to a URL that has a token in its query.",
        labels={"url": "The public URL of the server that receives notifications."},
    ),
}


def descriptor(project: str, kind: str) -> Any:
    """The descriptor of a type, in a project (its path)."""
    known = KINDS[kind]
    return types.NotificationChannelDescriptor.pb()(
        name=f"{project}/notificationChannelDescriptors/{kind}",
        type_=kind,
        display_name=known.title,
        description=known.text,
        labels=[
            label_pb2.LabelDescriptor(key=key, description=text)
            for key, text in known.labels.items()
        ],
        launch_stage=launch_stage_pb2.GA,
    )


def check(channel: Any) -> None:
    """Refuse a channel that could not work.

    Raises:
        GoogleError: 400.
    """
    field = "notification_channel"
    kind = KINDS.get(channel.type_)
    if kind is None:
        raise invalid_argument(
            f'Field {field}.type had an invalid value of "{channel.type_}": Unrecognized'
            " notification channel type."
        )
    for key in channel.labels:
        if key not in kind.labels:
            raise invalid_argument(
                f'Field {field}.labels had an invalid value of "{key}": not a label of channels of'
                f" type {channel.type_}."
            )
    for key in kind.labels:
        if not channel.labels.get(key, ""):
            raise invalid_argument(
                f"Field {field}.labels[{key}] had an invalid value: the label {key} is required"
                f" for channels of type {channel.type_}."
            )
    if len(channel.display_name) > 512 or len(channel.description) > 1024:
        raise invalid_argument(f"Field {field}.display_name or description is too long.")
    check_user_labels(channel.user_labels, field)
    _check_labels(channel, field)


def _check_labels(channel: Any, field: str) -> None:
    labels = channel.labels
    wrong = ""
    if channel.type_ == "email":
        fits = re.fullmatch(r"[^@\s<>,;]+@[^@\s<>,;]+", labels["email_address"])
        wrong = "" if fits else "email_address"
    elif channel.type_ == "sms":
        wrong = "" if re.fullmatch(r"\+?[0-9 ()-]{5,24}", labels["number"]) else "number"
    elif channel.type_ == "pubsub":
        fits = re.fullmatch(r"projects/[^/]+/topics/[A-Za-z][\w.~+%-]{2,254}", labels["topic"])
        wrong = "" if fits else "topic"
    elif channel.type_.startswith("webhook_") and not _is_url(labels["url"]):
        wrong = "url"
    if wrong:
        # A URL can have a token in it.
        shown = "" if wrong == "url" else f' of "{labels[wrong]}"'
        raise invalid_argument(f"Field {field}.labels[{wrong}] had an invalid value{shown}.")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and text.isprintable()
