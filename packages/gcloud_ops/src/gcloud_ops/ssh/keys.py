"""Our key pair, made at the first use, and the host keys that an instance has published."""

import functools
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gcloud_ops.errors import InvalidRequest
from gcloud_ops.settings import Settings

if TYPE_CHECKING:
    import asyncssh

__all__ = ["known_hosts", "private_key", "public_key_line"]


def public_key_line(settings: Settings) -> str:
    """The line for the metadata `ssh-keys`: `USER:ssh-ed25519 AAAA... USER`.

    The key pair is made at the first use.

    Raises:
        InvalidRequest: The key file can't be read or written.
    """
    algorithm, key = private_key(settings).export_public_key().decode().split()[:2]
    return f"{settings.ssh_user}:{algorithm} {key} {settings.ssh_user}"


def private_key(settings: Settings) -> "asyncssh.SSHKey":
    """The private key of the settings; made at the first use.

    Raises:
        InvalidRequest: The file can't be read or written, or is no key without a passphrase.
    """
    path = settings.ssh_key
    try:
        if not path.exists():
            _make_key(path, settings.ssh_user)
        return _read_key(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise InvalidRequest(
            f"ssh_key: {path}: {error.strerror or error}", resource="setting ssh_key"
        ) from error
    except ValueError as error:  # asyncssh's KeyImportError and KeyEncryptionError
        raise InvalidRequest(
            f"ssh_key: {path}: not a private key without a passphrase: {error}",
            resource="setting ssh_key",
        ) from error


@functools.lru_cache(maxsize=8)
def _read_key(path: Path, changed: int) -> "asyncssh.SSHKey":
    """Read the key once; `changed` is the file's time."""
    del changed
    import asyncssh

    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise PermissionError(0, "others may read this private key: `chmod 600` it")
    return asyncssh.read_private_key(path)


def _make_key(path: Path, comment: str) -> None:
    """Make the pair; of two processes that do, the first one's stays."""
    import asyncssh

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(key.export_private_key())
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename, this takes nobody's place
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)
    path.with_name(f"{path.name}.pub").write_bytes(key.export_public_key())


def known_hosts(instance: str, host_keys: Sequence[str]) -> "asyncssh.SSHKnownHosts":
    """The published keys, for this name; what is no key is left out."""
    import asyncssh

    lines = []
    for text in host_keys:
        with suppress(ValueError):
            key = asyncssh.import_public_key(text)
            lines.append(f"{instance} {key.export_public_key().decode().strip()}\n")
    return asyncssh.import_known_hosts("".join(lines))
