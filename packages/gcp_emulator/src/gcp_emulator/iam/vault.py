"""Secrets and their versions on disk: what Secret Manager keeps.

Layout, readable by nobody else: ``NAME/secret.json``, what is known of a secret and of its
versions, and ``NAME/1``, ``NAME/2``..., the payloads. A folder without ``secret.json`` is what an
interrupted deletion left.
"""

import hashlib
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gcp_emulator.iam.kept import keep, make_private, read_kept, write_private
from gcp_emulator.iam.policies import Policy
from gcp_emulator.replies import Json


@dataclass(slots=True, eq=False, kw_only=True)
class Secret:
    """One secret, without its payloads."""

    name: str
    resource: Json
    policy: Policy
    versions: list[Json] = field(default_factory=list)
    """Oldest first; the first is number 1."""

    def version(self, number: str) -> Json | None:
        """A version by its number, or the ``latest``; None if there is none."""
        if number == "latest":
            return self.versions[-1] if self.versions else None
        at = int(number) if number.isdecimal() and len(number) < 10 else 0
        return self.versions[at - 1] if 1 <= at <= len(self.versions) else None


class Vault:
    """The secrets of a project.

    Args:
        folder: Where they are kept; what is there already is read, but for payloads.

    Raises:
        ValueError: A file can't be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.secrets: dict[str, Secret] = {}
        for place in folder.iterdir() if folder.is_dir() else ():
            kept = read_kept(place / "secret.json")
            if kept is None:
                shutil.rmtree(place, ignore_errors=True)
                continue
            self.secrets[place.name] = Secret(
                name=place.name,
                resource=kept["secret"],
                policy=Policy.from_kept(kept["policy"]),
                versions=kept["versions"],
            )

    def add(self, name: str, resource: Json) -> Secret:
        """Take in a new secret."""
        make_private(self._folder / name)
        secret = self.secrets[name] = Secret(
            name=name, resource={**resource, "createTime": _now()}, policy=Policy()
        )
        self.save(secret)
        return secret

    def save(self, secret: Secret) -> None:
        """Keep what has changed about a secret."""
        secret.resource["etag"] = _etag(secret.resource)
        kept = {
            "secret": secret.resource,
            "policy": secret.policy.to_kept(),
            "versions": secret.versions,
        }
        keep(self._folder / secret.name / "secret.json", kept)

    def remove(self, secret: Secret) -> None:
        """Forget a secret and all of its payloads."""
        del self.secrets[secret.name]
        place = self._folder / secret.name
        (place / "secret.json").unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)

    def add_version(self, secret: Secret, payload: bytes, *, is_checked: bool) -> Json:
        """Take in a new version; `is_checked`: the client sent a checksum along."""
        number = str(len(secret.versions) + 1)
        # The payload first: a version that is known can be read.
        write_private(self._folder / secret.name / number, payload)
        version: Json = {
            "number": number,
            "createTime": _now(),
            "state": "ENABLED",
            **({"clientSpecifiedPayloadChecksum": True} if is_checked else {}),
        }
        secret.versions.append(version)
        self.change_version(secret, version, "ENABLED")
        return version

    def change_version(self, secret: Secret, version: Json, state: str) -> None:
        """Enable, disable or destroy a version; with the last, its payload is gone."""
        version["state"] = state
        if state == "DESTROYED":
            version["destroyTime"] = _now()
        version["etag"] = _etag(version)
        self.save(secret)
        if state == "DESTROYED":
            (self._folder / secret.name / version["number"]).unlink(missing_ok=True)

    def payload(self, secret: Secret, version: Json) -> bytes:
        """The payload of a version that is not destroyed."""
        return (self._folder / secret.name / str(version["number"])).read_bytes()


def _etag(resource: Json) -> str:
    text = repr(sorted((key, value) for key, value in resource.items() if key != "etag"))
    return f'"{hashlib.sha256(f"{text} {_now()}".encode()).hexdigest()[:14]}"'


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
