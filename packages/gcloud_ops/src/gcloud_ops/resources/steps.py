"""Resources in order: looked at, made and mended, removed; each step told, each refusal explained.

The first of them is the APIs, by whose `observe` the place learns what can't be reached.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gcloud_ops.errors import PermissionDenied
from gcloud_ops.resources.shape import Begun, Done, Place, Progressed, Resource, Seen, Tell

__all__ = ["Finding", "Plan", "ensure_all", "observe_all", "remove_all"]

_ENABLED_WITHIN = 300.0  # seconds until a new API answers everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One resource as it was found."""

    what: str
    """Kind and name, such as `bucket example-mlflow`."""
    holds_data: bool
    seen: Seen

    @property
    def state(self) -> str:
        """`missing`, `making`, `there` or `differs`."""
        return self.seen.state

    @property
    def differences(self) -> tuple[str, ...]:
        """What isn't as wanted, in words."""
        return self.seen.differences

    @property
    def is_changed(self) -> bool:
        """Whether to ensure it would make, await or mend it."""
        return self.state in {"missing", "making"} or bool(self.seen.mends)

    @property
    def change(self) -> str:
        """What would be changed, in words for people; "" if nothing would be."""
        if not self.is_changed:
            return ""
        if self.state == "missing" and not self.seen.mends:
            return "will be made"
        return "; ".join(self.seen.mends or self.differences) or "is being made"

    @property
    def drift(self) -> tuple[str, ...]:
        """The differences that are left, because only people can decide on them."""
        if self.state != "differs":
            return ()
        return tuple(one for one in self.differences if one not in self.seen.mends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan[F: Finding]:
    """What was found, in the order in which it is made."""

    findings: tuple[F, ...]

    @property
    def changes(self) -> tuple[F, ...]:
        """What would be made, awaited or mended."""
        return tuple(one for one in self.findings if one.is_changed)

    @property
    def is_complete(self) -> bool:
        """Whether nothing would be changed."""
        return not self.changes

    @property
    def drift(self) -> tuple[F, ...]:
        """What differs, and would be left so."""
        return tuple(one for one in self.findings if one.drift)


def observe_all(place: Place, resources: Sequence[Resource]) -> Iterator[tuple[Resource, Seen]]:
    """See what is there, with calls that only read.

    While an API is disabled, what is reached by it is missing.

    Raises:
        GcloudOpsError: It can't be seen: no permission, no answer, a bucket of others.
    """
    for resource in resources:
        if place.disabled.intersection(resource.apis):
            yield resource, Seen(state="missing")
            continue
        with _explained(resource):
            seen = resource.observe()
        yield resource, seen


def ensure_all(resources: Sequence[Resource], tell: Tell) -> None:
    """Make and mend until all is there.

    Args:
        resources: In order, the APIs first.
        tell: Told of each step: when it begins, goes on and is done. What it raises ends this.

    Raises:
        GcloudOpsError: A step can't be done; what was made stays.
    """
    fresh = False
    for position, resource in enumerate(resources, start=1):
        tell(Begun(what=resource.what, position=position, count=len(resources)))
        with _explained(resource):
            changes = _patiently(resource, tell) if fresh else resource.ensure(tell)
        fresh = fresh or (position == 1 and bool(changes))
        tell(Done(what=resource.what, changes=changes))


def remove_all(
    place: Place, resources: Sequence[Resource], tell: Tell, *, delete_data: bool
) -> None:
    """Remove them in the reverse order.

    Args:
        place: Where.
        resources: In the order in which they are made, the APIs first.
        tell: As in `ensure_all`.
        delete_data: Remove those that hold data, too.

    Raises:
        GcloudOpsError: A step can't be done; another run goes on there.
    """
    with _explained(resources[0]):
        resources[0].observe()
    removed = [
        one
        for one in reversed(resources)
        if (delete_data or not one.holds_data) and not place.disabled.intersection(one.apis)
    ]
    for position, resource in enumerate(removed, start=1):
        tell(Begun(what=resource.what, position=position, count=len(removed)))
        with _explained(resource):
            changes = resource.remove(tell)
        tell(Done(what=resource.what, changes=changes))


@contextmanager
def _explained(resource: Resource) -> Iterator[None]:
    """Say which role permits it, where Google's sentence names no permission."""
    try:
        yield
    except PermissionDenied as error:
        if error.hint or "quota" in error.message.lower():
            raise
        raise PermissionDenied(
            error.message,
            resource=error.resource,
            hint=f"ask for the role {resource.role} in the project",
        ) from error


def _patiently(resource: Resource, tell: Tell) -> tuple[str, ...]:
    """As `ensure`, where an API was enabled a moment ago, and doesn't answer everywhere yet."""
    begin = time.monotonic()
    while True:
        try:
            return resource.ensure(tell)
        except PermissionDenied as error:
            waited = time.monotonic() - begin
            if "enable the API" not in error.hint or waited > _ENABLED_WITHIN:
                raise
            text = "waits for an API that was enabled just now"
            tell(Progressed(what=resource.what, seconds=waited, text=text))
            time.sleep(5.0)
