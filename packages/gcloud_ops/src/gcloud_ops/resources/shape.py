"""The shape that all resources have, what they are handed, and what they tell of their work."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from gcloud_ops.clients import Clients
from gcloud_ops.errors import NotFound, Unavailable

__all__ = [
    "Begun",
    "Done",
    "Event",
    "Place",
    "Progressed",
    "Resource",
    "Seen",
    "Tell",
    "line_if_different",
    "wait_until",
]

_LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A step begins."""

    what: str
    position: int
    """Counts from 1."""
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """A step goes on, and says what it waits for."""

    what: str
    seconds: float
    """How long it has waited so far."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A step is done."""

    what: str
    changes: tuple[str, ...]
    """What it changed, as readable words; none: all was as it should be."""


type Event = Begun | Progressed | Done
type Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A resource as it was found."""

    state: Literal["missing", "making", "there", "differs"]
    differences: tuple[str, ...] = ()
    """What isn't as wanted, such as `tier is db-g1-small, wanted db-f1-micro`."""
    mends: tuple[str, ...] = ()
    """Those of the differences that `ensure` takes away; the others it leaves, and reports."""

    @classmethod
    def compared(cls, *, mends: Iterable[str] = (), leaves: Iterable[str] = ()) -> Self:
        """A resource that is there, with these differences or none."""
        mended, left = tuple(mends), tuple(leaves)
        state: Literal["there", "differs"] = "differs" if mended or left else "there"
        return cls(state=state, differences=mended + left, mends=mended)


class Resource(Protocol):
    """One thing in the cloud: looked at, made or mended, and removed, each as often as one likes.

    All methods raise `GcloudOpsError`.
    """

    @property
    def holds_data(self) -> bool:
        """Whether people's data are gone when it is removed."""
        ...

    @property
    def apis(self) -> tuple[str, ...]:
        """The APIs that it is reached by; while one is disabled, nothing can be there."""
        ...

    @property
    def role(self) -> str:
        """A role that permits all of its calls."""
        ...

    @property
    def what(self) -> str:
        """Kind and name, such as `Cloud SQL instance mlflow-backend`."""
        ...

    def observe(self) -> Seen:
        """Look, with calls that only read."""
        ...

    def ensure(self, tell: Tell) -> tuple[str, ...]:
        """Make it if it is missing, wait for it if it is being made, mend what can be mended.

        Returns:
            What was changed, in words.
        """
        ...

    def remove(self, tell: Tell) -> tuple[str, ...]:
        """Remove it; that it is gone already is success. Returns what was changed, in words."""
        ...


class Place:
    """Where the resources are: the clients, and what is asked for only once.

    Args:
        clients: Of the project.
    """

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.disabled: frozenset[str] = frozenset()
        """APIs that were found disabled."""
        self._number = ""

    @property
    def project(self) -> str:
        """The project's id."""
        return self.clients.project

    @property
    def number(self) -> str:
        """The project's number."""
        if not self._number:
            projects = self.clients.api("cloudresourcemanager", "v1").projects()
            found = self.clients.execute(
                f"project {self.project}", projects.get(projectId=self.project)
            )
            self._number = str(found["projectNumber"])
        return self._number

    def find(self, what: str, request: Any) -> dict[str, Any] | None:
        """The reply to a request of `Clients.api` that reads; None if there is no such thing."""
        with suppress(NotFound):
            return self.clients.execute(what, request)
        return None

    def discard(self, what: str, request: Any) -> tuple[str, ...]:
        """Send a request that deletes; that it is gone already is success. What was done."""
        with suppress(NotFound):
            self.clients.execute(what, request, repeat=True)
        return ("deleted",)

    def await_operation(
        self,
        what: str,
        operation: dict[str, Any],
        *,
        again: Callable[[str], Any],
        is_done: Callable[[dict[str, Any]], bool],
        text: str,
        tell: Tell,
        seconds: float,
    ) -> dict[str, Any]:
        """Wait for the end of an operation, which may have ended badly; returns it as it is then.

        Args:
            what: What is being changed.
            operation: As the request that began it was answered.
            again: Makes the request that reads it, of its name.
            is_done: Whether it has ended.
            text: What is going on, such as `is being made`.
            tell: Told of the progress.
            seconds: How long at most.

        Raises:
            Unavailable: The time is up.
        """
        latest = operation

        def look() -> str | None:
            nonlocal latest
            if not is_done(latest):
                latest = self.clients.execute(what, again(operation["name"]))
            return None if is_done(latest) else text

        wait_until(tell, what, look, seconds=seconds)
        return latest


def wait_until(
    tell: Tell, what: str, look: Callable[[], str | None], *, seconds: float, pause: float = 0.05
) -> None:
    """Look until `look` finds nothing to wait for; tell each time what it waits for.

    Args:
        tell: Told of the progress.
        what: What is waited for.
        look: Returns None when it is done, else what is going on.
        seconds: How long at most.
        pause: The first pause; each is longer than the one before, up to 5 seconds.

    Raises:
        Unavailable: The time is up.
    """
    begin = time.monotonic()
    while (text := look()) is not None:
        waited = time.monotonic() - begin
        if waited >= seconds:
            raise Unavailable(
                f"{what}: {text}, still after {waited:.0f} s",
                resource=what,
                hint="run it again: it goes on where it is",
            )
        tell(Progressed(what=what, seconds=waited, text=text))
        time.sleep(min(pause, seconds - waited))
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def line_if_different(name: str, is_: list[str], want: list[str]) -> str:
    """A line for people; "" if there is no difference."""
    if is_ == want:
        return ""
    return f"{name} is {', '.join(is_) or 'none'}, wanted {', '.join(want) or 'none'}"
