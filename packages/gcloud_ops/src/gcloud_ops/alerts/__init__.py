"""Alerts: who is told when an experiment or a sweep has ended, and what the message says.

    channels     whom: e-mail addresses, webhooks... (Monitoring's notification channels)
    wanted       the metrics and the policies that we want, as text; pure
    policies     set them up, list, enable, disable, remove
    permissions  whether the caller may, asked before anything is made
    incidents    what Monitoring has noticed, and a real signal as a test

The runner writes the signal (`docs/contract.md`, section 8). The policies are of the whole
project, and labelled as ours: no sweep makes any of its own.
"""

from gcloud_ops.alerts.channels import (
    Channel,
    ChannelType,
    add_channel,
    list_channels,
    list_types,
    remove_channel,
    send_code,
    verify_channel,
)
from gcloud_ops.alerts.incidents import (
    Delivery,
    Incident,
    Signal,
    await_incident,
    deliveries,
    list_incidents,
    signal,
)
from gcloud_ops.alerts.policies import (
    Policy,
    Recipients,
    list_policies,
    recipients,
    remove_policies,
    set_enabled,
    set_up,
)

__all__ = [
    "Channel",
    "ChannelType",
    "Delivery",
    "Incident",
    "Policy",
    "Recipients",
    "Signal",
    "add_channel",
    "await_incident",
    "deliveries",
    "list_channels",
    "list_incidents",
    "list_policies",
    "list_types",
    "recipients",
    "remove_channel",
    "remove_policies",
    "send_code",
    "set_enabled",
    "set_up",
    "signal",
    "verify_channel",
]
