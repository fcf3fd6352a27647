"""SSH to instances: our key pair, verified host keys, and Docker at the other end.

An instance publishes its host keys as guest attributes; a connection is made only to a host that
has one of them, whatever its address. Users' SSH configuration, agents and known_hosts files are
not read: what happens depends on the settings alone.
"""

from gcloud_ops.ssh.connecting import connect, reach
from gcloud_ops.ssh.connection import CommandFailed, CompletedCommand, Connection
from gcloud_ops.ssh.keys import public_key_line
from gcloud_ops.ssh.terminal import interactive

__all__ = [
    "CommandFailed",
    "CompletedCommand",
    "Connection",
    "connect",
    "interactive",
    "public_key_line",
    "reach",
]
