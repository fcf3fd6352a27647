"""Roles: who may do what in the project, on a bucket, on a secret.

A policy is replaced as a whole, with the etag that it was read with; what others have in it stays.
See https://cloud.google.com/iam/docs/policies#etag.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from gcloud_ops.clients import CALL_TIMEOUT
from gcloud_ops.errors import AlreadyExists, InvalidRequest, NotFound, Unavailable
from gcloud_ops.resources.shape import Place, Seen, Tell, wait_until

__all__ = ["Binding", "BucketPolicy", "Policy", "ProjectPolicy", "Roles", "SecretPolicy"]

type Binding = tuple[str, str]
"""A role, and who has it, such as `serviceAccount:someone@...`."""

_TRIES: Final = 8  # against others that write the same policy
_KNOWN_WITHIN: Final = 120.0  # seconds until IAM knows a new account everywhere


class Policy(Protocol):
    """Whose policy: read and replaced as a whole, with the etag that it was read with."""

    @property
    def what(self) -> str:
        """Kind and name."""
        ...

    @property
    def apis(self) -> tuple[str, ...]:
        """Those that it is reached by."""
        ...

    @property
    def role(self) -> str:
        """A role that permits to read and write it."""
        ...

    def read(self) -> dict[str, Any]:
        """The policy; `NotFound` if there is no such thing."""
        ...

    def write(self, policy: dict[str, Any]) -> None:
        """Replace it; `AlreadyExists` if somebody was faster."""
        ...


@dataclass(slots=True)
class ProjectPolicy:
    """That of the project."""

    place: Place
    apis: tuple[str, ...] = ("cloudresourcemanager.googleapis.com",)
    role: str = "roles/resourcemanager.projectIamAdmin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"project {self.place.project}"

    def read(self) -> dict[str, Any]:
        """The policy."""
        request = self._projects.getIamPolicy(
            resource=self.place.project, body={"options": {"requestedPolicyVersion": 3}}
        )
        return self.place.clients.execute(self.what, request, repeat=True)

    def write(self, policy: dict[str, Any]) -> None:
        """Replace it."""
        request = self._projects.setIamPolicy(resource=self.place.project, body={"policy": policy})
        self.place.clients.execute(self.what, request, repeat=True)

    @property
    def _projects(self) -> Any:
        return self.place.clients.api("cloudresourcemanager", "v1").projects()


@dataclass(slots=True)
class SecretPolicy:
    """That of one secret."""

    place: Place
    name: str
    apis: tuple[str, ...] = (
        "cloudresourcemanager.googleapis.com",
        "secretmanager.googleapis.com",
    )
    role: str = "roles/secretmanager.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"secret {self.name}"

    def read(self) -> dict[str, Any]:
        """The policy."""
        request = self._secrets.getIamPolicy(resource=self._path, options_requestedPolicyVersion=3)
        return self.place.clients.execute(self.what, request)

    def write(self, policy: dict[str, Any]) -> None:
        """Replace it."""
        request = self._secrets.setIamPolicy(resource=self._path, body={"policy": policy})
        self.place.clients.execute(self.what, request, repeat=True)

    @property
    def _path(self) -> str:
        return f"projects/{self.place.project}/secrets/{self.name}"

    @property
    def _secrets(self) -> Any:
        return self.place.clients.api("secretmanager", "v1").projects().secrets()


@dataclass(slots=True)
class BucketPolicy:
    """That of a bucket."""

    place: Place
    name: str
    apis: tuple[str, ...] = ("storage.googleapis.com",)
    role: str = "roles/storage.admin"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"bucket {self.name}"

    def read(self) -> dict[str, Any]:
        """The policy."""
        bucket = self.place.clients.storage.bucket(self.name)
        policy = self.place.clients.call(
            self.what,
            lambda: bucket.get_iam_policy(
                requested_policy_version=3, retry=None, timeout=CALL_TIMEOUT
            ),
        )
        return dict(policy.to_api_repr())

    def write(self, policy: dict[str, Any]) -> None:
        """Replace it."""
        from google.api_core.iam import Policy

        bucket = self.place.clients.storage.bucket(self.name)
        whole = Policy.from_api_repr(policy)  # type: ignore[no-untyped-call]
        self.place.clients.call(
            self.what, lambda: bucket.set_iam_policy(whole, retry=None, timeout=CALL_TIMEOUT)
        )


@dataclass(slots=True)
class Roles:
    """Bindings of one policy, without conditions; all others in it are left alone."""

    place: Place
    policy: Policy
    wanted: Callable[[], tuple[Binding, ...]]
    """Roles, and who shall have them; asked when they are needed."""
    optional: bool = False
    """Whether all is well where what they are granted on isn't there."""
    holds_data: ClassVar[bool] = False

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"roles on the {self.policy.what}"

    @property
    def apis(self) -> tuple[str, ...]:
        """Those of the policy."""
        return self.policy.apis

    @property
    def role(self) -> str:
        """A role that permits to read and write the policy."""
        return self.policy.role

    def observe(self) -> Seen:
        """See which are granted."""
        wanted = self.wanted()
        try:
            missing = _missing(self.policy.read(), wanted)
        except NotFound:
            missing = () if self.optional else wanted
        lines = tuple(f"{_name(member)} has no {role}" for role, member in missing)
        if missing and len(missing) == len(wanted):
            return Seen(state="missing", differences=lines, mends=lines)
        return Seen.compared(mends=lines)

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Grant those that are missing."""
        wanted = self.wanted()
        granted: tuple[Binding, ...] = ()

        def grant() -> str | None:
            nonlocal granted
            try:
                granted = self._rewrite(lambda policy: _granted(policy, wanted))
            except NotFound:
                if not self.optional:
                    raise
            except InvalidRequest as error:
                # An account that is new isn't known to all of IAM at once.
                if "does not exist" not in error.message:
                    raise
                return "a new service account isn't known there yet"
            return None

        wait_until(tell, self.what, grant, seconds=_KNOWN_WITHIN, pause=0.5)
        return tuple(f"granted {role} to {_name(member)}" for role, member in granted)

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Take away ours."""
        del tell
        wanted = self.wanted()
        try:
            revoked = self._rewrite(lambda policy: _revoked(policy, wanted))
        except NotFound:
            return ()
        return tuple(f"took {role} from {_name(member)}" for role, member in revoked)

    def _rewrite(
        self, change: Callable[[dict[str, Any]], tuple[Binding, ...]]
    ) -> tuple[Binding, ...]:
        """Read, change and write the policy until nobody else wrote in between."""
        for attempt in range(_TRIES):
            policy = self.policy.read()
            changed = change(policy)
            if not changed:
                return ()
            try:
                self.policy.write(policy)
            except AlreadyExists:
                time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311
            else:
                return changed
        raise Unavailable(
            f"{self.what}: others write the policy all the time",
            resource=self.what,
            hint="run it again",
        )


def _name(member: str) -> str:
    return member.partition(":")[2]


def _missing(policy: dict[str, Any], wanted: tuple[Binding, ...]) -> tuple[Binding, ...]:
    found = {
        (binding["role"], member)
        for binding in policy.get("bindings", [])
        if not binding.get("condition")
        for member in binding.get("members", [])
    }
    return tuple(one for one in wanted if one not in found)


def _granted(policy: dict[str, Any], wanted: tuple[Binding, ...]) -> tuple[Binding, ...]:
    """Add the bindings to the policy; those that it didn't have."""
    missing = _missing(policy, wanted)
    bindings = policy.setdefault("bindings", [])
    for role, member in missing:
        for binding in bindings:
            if binding["role"] == role and not binding.get("condition"):
                binding["members"] = [*binding.get("members", []), member]
                break
        else:
            bindings.append({"role": role, "members": [member]})
    return missing


def _revoked(policy: dict[str, Any], wanted: tuple[Binding, ...]) -> tuple[Binding, ...]:
    """Take the bindings out of the policy; those that it had.

    A deleted account's stay there as `deleted:serviceAccount:...?uid=...`.
    """
    revoked: list[Binding] = []
    kept = []
    for binding in policy.get("bindings", []):
        members = list(binding.get("members", []))
        if not binding.get("condition"):
            ours = [
                one
                for one in members
                if (binding["role"], one.removeprefix("deleted:").partition("?")[0]) in wanted
            ]
            revoked += [(binding["role"], one) for one in ours]
            members = [one for one in members if one not in ours]
        if members:
            kept.append({**binding, "members": members})
    policy["bindings"] = kept
    return tuple(revoked)
