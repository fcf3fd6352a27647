"""What launcher and container share: the JSON forms of docs/contract.md, version 1.

Reading is strict in what this side acts on (names, states, times, generations), and forgiving in
what it only shows: a member of another type than the contract's is taken as not there.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from gcloud_ops.errors import InvalidRequest

__all__ = [
    "CONTAINER",
    "SCHEMA",
    "Attempt",
    "Dispatch",
    "Exit",
    "Experiment",
    "Image",
    "Machine",
    "Manifest",
    "Progress",
    "Record",
    "Retry",
    "Source",
    "parse_time",
    "timestamp",
]

SCHEMA = 1
"""Version of the contract that this package speaks."""

_LARGEST = 1 << 63  # what is beyond was never counted

CONTAINER = "sinergym"
"""Name of the one container on an instance."""


class Dispatch(StrEnum):
    """How the command reaches the container."""

    SSH = "ssh"
    """The launcher sends it."""
    BOOT = "boot"
    """The runner reads it in the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One training: a command, and the name under which it is known everywhere."""

    id: str
    """`<sweep>-<number>`; also the instance's name."""
    command: str
    """A line for `/bin/sh -c` in the container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Which failures the runner tries again by itself, on the same instance."""

    times: int
    """How often, at most, for one experiment."""
    kinds: tuple[str, ...]
    """Kinds of an exit, such as `error` or `oom`."""
    wait: float = 60.0
    """Seconds before the first retry; before each further one twice as long, up to an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What each instance is, as far as its price and its making need it."""

    types: tuple[str, ...] = ()
    """Machine types, the preferred one first; none: the template's."""
    spot: bool = False
    disk_gb: int = 0
    disk_type: str = ""
    hourly: float | None = None
    """US dollars an hour for one instance with disk and address, when it was launched."""
    priced: str = ""
    """Date of the table of prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The container's image, as it was when the sweep was launched."""

    name: str
    digest: str = ""
    """`sha256:...`, or "" where the registry did not tell."""
    pinned: bool = False
    """Whether the instances take it by its digest, whatever its name means by then."""

    @property
    def fixed(self) -> str:
        """The name that means this very image, where its digest is known."""
        rest = self.name.partition("@")[0]
        return f"{rest}@{self.digest}" if self.digest else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The state of the repository that the sweep was launched from."""

    commit: str
    branch: str = ""
    dirty: bool = False
    """Whether it differed from the commit; `<sweep>/source.diff` holds the difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a sweep is: written once into the bucket, before any instance exists."""

    sweep: str
    created: datetime
    project: str
    zone: str
    template: str
    dispatch: Dispatch
    launcher: Mapping[str, str]
    """Who launched it: `user`, `host`, `version`."""
    experiments: tuple[Experiment, ...]
    alert_each: bool = False
    """Whether each experiment's end is announced; else failures and the sweep's end are."""
    zones: tuple[str, ...] = ()
    """More than one: the group is a regional one and may place its instances in any of them."""
    retry: Retry | None = None
    seconds: int | None = None
    """How long each experiment may take on instances, all attempts together; None: no limit."""
    machine: Machine = field(default_factory=Machine)
    image: Image | None = None
    source: Source | None = None

    def to_json(self) -> str:
        """The object's content."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "sweep": self.sweep,
                "created": timestamp(self.created),
                "project": self.project,
                "zone": self.zone,
                "template": self.template,
                "dispatch": str(self.dispatch),
                "launcher": dict(self.launcher),
                "alerts": {"each": self.alert_each},
                "zones": list(self.zones),
                "retry": asdict(self.retry) if self.retry else None,
                "limits": {"seconds": self.seconds},
                "machine": asdict(self.machine),
                "image": asdict(self.image) if self.image else None,
                "source": asdict(self.source) if self.source else None,
                "experiments": [{"id": e.id, "command": e.command} for e in self.experiments],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read it back.

        Raises:
            InvalidRequest: It is not a manifest, or one of another schema.
        """
        content = _document(text, "manifest")
        try:
            return cls(
                sweep=str(content["sweep"]),
                created=parse_time(content["created"]),
                project=str(content["project"]),
                zone=str(content["zone"]),
                template=str(content["template"]),
                dispatch=Dispatch(content.get("dispatch", "ssh")),
                launcher={str(k): str(v) for k, v in content.get("launcher", {}).items()},
                experiments=tuple(
                    Experiment(id=str(e["id"]), command=str(e["command"]))
                    for e in content["experiments"]
                ),
                alert_each=_mapping(content.get("alerts")).get("each") is True,
                zones=tuple(_text(zone) for zone in content.get("zones") or ()),
                retry=_retry(_mapping(content.get("retry"))),
                seconds=_count(_mapping(content.get("limits")).get("seconds")),
                machine=_machine(_mapping(content.get("machine"))),
                image=_image(_mapping(content.get("image"))),
                source=_source(_mapping(content.get("source"))),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(f"the manifest is broken: {error!r}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the training has come."""

    episode: int | None = None
    episodes: int | None = None
    timesteps: int | None = None
    total_timesteps: int | None = None
    mean_reward: float | None = None

    @property
    def fraction(self) -> float | None:
        """0 to 1, where it is known."""
        if not self.total_timesteps or self.timesteps is None:
            return None
        return min(1.0, max(0.0, self.timesteps / self.total_timesteps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the command ended."""

    code: int | None
    signal: str | None
    kind: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt that is over, as the experiment's later records remember it."""

    number: int
    kind: str
    """How it ended: kinds of an exit, `preempted`, or `unknown` where it died without a word."""
    hint: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    instance_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the runner says of its experiment."""

    experiment: str
    attempt: int
    state: str
    instance_id: str = ""
    started: datetime | None = None
    updated: datetime | None = None
    ended: datetime | None = None
    progress: Progress = field(default_factory=Progress)
    exit: Exit | None = None
    spent: float = 0.0
    """Seconds on instances of the attempts before this one."""
    history: tuple[Attempt, ...] = ()
    """The attempts before this one, the latest last."""
    mlflow_run: str = ""
    mlflow_url: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    """Of the object, for a conditional replacement."""
    silent_because: str = ""
    """Why the end could not be signalled to Cloud Monitoring; "" where nothing went wrong."""
    stored: datetime | None = None
    """When the bucket stored it, by the bucket's clock."""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The whole document, so that a replacement keeps what this version doesn't know."""

    @property
    def is_final(self) -> bool:
        """Whether the attempt is over for good."""
        return self.state in {"finished", "failed", "cancelled", "idle"}

    @classmethod
    def from_json(
        cls, text: str | bytes, *, generation: int = 0, stored: datetime | None = None
    ) -> Self:
        """Read a record; `generation` and `stored` are its object's.

        Raises:
            InvalidRequest: It is not a record, or one of another schema.
        """
        content = _document(text, "record")
        run, versions = _mapping(content.get("mlflow")), _mapping(content.get("versions"))
        signal = _mapping(content.get("signal"))
        try:
            return cls(
                experiment=_text(content["experiment"]),
                attempt=_attempt(content["attempt"]),
                state=_text(content["state"]),
                instance_id=_shown(content.get("instance_id")),
                started=_optional_time(content.get("started")),
                updated=_optional_time(content.get("updated")),
                ended=_optional_time(content.get("ended")),
                progress=_progress(_mapping(content.get("progress"))),
                exit=_exit(content.get("exit")),
                spent=max(0.0, _number(content.get("spent")) or 0.0),
                history=tuple(_history(content.get("history"))),
                mlflow_run=_shown(run.get("run_id")),
                mlflow_url=_shown(run.get("url")),
                versions={_shown(name): _shown(version) for name, version in versions.items()},
                generation=generation,
                silent_because=_shown(signal.get("why")) if signal.get("written") is False else "",
                stored=stored,
                raw=content,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequest(f"the record is broken: {error!r}") from error


def timestamp(time: datetime) -> str:
    """RFC 3339 in UTC, with a Z, to the millisecond."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """Read RFC 3339; without an offset it is UTC.

    Raises:
        ValueError: It is not a time.
    """
    time = datetime.fromisoformat(text)
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(f"no time that there is: {text!r}") from error


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"{value!r} is not text")


def _attempt(value: object) -> int:
    found = _count(value)
    if found is None or found < 0:
        raise ValueError(f"attempt: {value!r} is not a number of attempts")
    return found


def _optional_time(value: object) -> datetime | None:
    return parse_time(_text(value)) if value else None


def _progress(content: Mapping[str, Any]) -> Progress:
    return Progress(
        episode=_count(content.get("episode")),
        episodes=_count(content.get("episodes")),
        timesteps=_count(content.get("timesteps")),
        total_timesteps=_count(content.get("total_timesteps")),
        mean_reward=_number(content.get("mean_reward")),
    )


def _exit(value: object) -> Exit | None:
    if not value or not isinstance(value, dict):
        return None
    return Exit(
        code=_count(value.get("code")),
        signal=_shown(value.get("signal")) or None,
        kind=_shown(value.get("kind")) or "error",
        hint=_shown(value.get("hint")),
    )


def _retry(content: Mapping[str, Any]) -> Retry | None:
    times, wait = _count(content.get("times")), _number(content.get("wait"))
    if not times or times < 0:
        return None
    kinds = tuple(_texts(content.get("kinds")))
    return Retry(times=times, kinds=kinds, wait=max(0.0, 60.0 if wait is None else wait))


def _machine(content: Mapping[str, Any]) -> Machine:
    return Machine(
        types=tuple(_texts(content.get("types"))),
        spot=content.get("spot") is True,
        disk_gb=_count(content.get("disk_gb")) or 0,
        disk_type=_shown(content.get("disk_type")),
        hourly=_number(content.get("hourly")),
        priced=_shown(content.get("priced")),
    )


def _image(content: Mapping[str, Any]) -> Image | None:
    name = _shown(content.get("name"))
    digest, pinned = _shown(content.get("digest")), content.get("pinned") is True
    return Image(name=name, digest=digest, pinned=pinned) if name else None


def _source(content: Mapping[str, Any]) -> Source | None:
    commit = _shown(content.get("commit"))
    if not commit:
        return None
    dirty = content.get("dirty") is True
    return Source(commit=commit, branch=_shown(content.get("branch")), dirty=dirty)


def _history(value: object) -> Iterator[Attempt]:
    for one in value if isinstance(value, list) else ():
        content = _mapping(one)
        number = _count(content.get("attempt"))
        if number is None:
            continue
        with suppress(ValueError, TypeError):
            yield Attempt(
                number=number,
                kind=_shown(content.get("kind")) or "unknown",
                hint=_shown(content.get("hint")),
                started=_optional_time(content.get("started")),
                ended=_optional_time(content.get("ended")),
                instance_id=_shown(content.get("instance_id")),
            )


def _texts(value: object) -> Iterator[str]:
    return (one for one in (value if isinstance(value, list) else ()) if isinstance(one, str))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    """A number that can be shown and reckoned with; None for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -_LARGEST < value < _LARGEST else None  # not so for NaN


def _count(value: object) -> int | None:
    """A whole number; None for all else."""
    found = _number(value)
    return int(found) if found is not None and found == int(found) else None


def _shown(value: object) -> str:
    """Text, or a number as text; "" for all else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value)


def _document(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the {what} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"the {what} is not a JSON object")
    if content.get("schema") != SCHEMA:
        raise InvalidRequest(
            f"the {what} has schema {content.get('schema')!r}, this version reads {SCHEMA}",
            hint="use the gcloud-ops that launched the sweep, or a newer one",
        )
    return content
