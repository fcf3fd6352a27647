"""What channels, policies and descriptors share: Google's standard methods, and keeping them.

Create, get, list, update and delete look the same for all resources (https://google.aip.dev/130):
a `Collection` says how they are called, and gives out lists in pages; `Kept` remembers messages by
their names; the functions are the fields that Monitoring's resources have in common.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.cloud.monitoring_v3 import types
from google.protobuf import empty_pb2, json_format

from gcp_emulator.iam.errors import invalid_argument, not_found
from gcp_emulator.iam.kept import keep, read_kept
from gcp_emulator.monitoring.wire import Method, paged

__all__ = [
    "Collection",
    "Kept",
    "check_user_labels",
    "field_of",
    "masked",
    "new_id",
    "ordered",
    "record",
    "refuse_name",
]

type Run = Callable[[Any], Any]

_PARENT: Final = "projects/*"
_MOST_USER_LABELS: Final = 64
_USER_LABEL: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_USER_VALUE: Final = re.compile(r"[a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A kind of resource of a project, and how its standard methods are called."""

    service: str
    """Such as ``AlertPolicyService``."""
    one: str
    """Such as ``AlertPolicy``; the requests are named by it."""
    many: str
    """Such as ``AlertPolicies``."""
    path: str
    """Such as ``alertPolicies``, below the project."""
    message: type[Any]
    slashes: bool = False
    """Whether an id can have some."""
    most: int = 1_000
    """How many a page has, at most."""

    def list(self, run: Run) -> Method:
        """GET of all."""
        name = f"List{self.many}"
        return self._method(name, "list", "GET", run, reply=f"{name}Response", after=self._below)

    def get(self, run: Run) -> Method:
        """GET of one."""
        return self._method(f"Get{self.one}", "get", "GET", run, of=self.named)

    def create(self, run: Run, *, body: str | None = None, reply: str | None = None) -> Method:
        """POST of a new one; `body` and `reply` as in `Method` and `custom` where they differ."""
        return self._method(
            f"Create{self.one}",
            "create",
            "POST",
            run,
            after=self._below,
            body=body or self.field,
            reply=reply,
        )

    def update(self, run: Run) -> Method:
        """PATCH of one, with a mask."""
        return self._method(
            f"Update{self.one}",
            "patch",
            "PATCH",
            run,
            of=self.named,
            name=f"{self.field}.name",
            body=self.field,
        )

    def delete(self, run: Run) -> Method:
        """DELETE of one."""
        return self._method(f"Delete{self.one}", "delete", "DELETE", run, of=self.named, reply="")

    def custom(self, name: str, verb: str, run: Run, *, reply: str | None = None) -> Method:
        """POST of a verb of its own to one; `reply` names its message, nothing for an empty one.

        Args:
            name: Such as ``VerifyNotificationChannel``.
            verb: Such as ``verify``.
            run: What it does.
            reply: By default the resource.
        """
        return self._method(
            name, verb, "POST", run, of=self.named, after=f":{verb}", body="*", reply=reply
        )

    def page(self, request: Any, found: Sequence[Any]) -> Any:
        """The reply to a list: the asked page of what was found."""
        some, token = paged(request, found, most=self.most)
        kind = _type(f"List{self.many}Response")
        reply = kind(next_page_token=token)
        if "total_size" in kind.DESCRIPTOR.fields_by_name:
            reply.total_size = len(found)
        lists = [one for one in kind.DESCRIPTOR.fields if one.is_repeated and one.message_type]
        # The first one: that of time series has another, for errors.
        getattr(reply, min(lists, key=lambda one: one.number).name).extend(some)
        return reply

    @property
    def field(self) -> str:
        """The field of requests that has one."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.one).lower()

    @property
    def named(self) -> str:
        """What the name of one looks like."""
        return f"{_PARENT}/{self.path}/{'**' if self.slashes else '*'}"

    @property
    def _below(self) -> str:
        return f"/{self.path}"

    def _method(
        self,
        rpc: str,
        verb: str,
        http: str,
        run: Run,
        *,
        of: str = _PARENT,
        reply: str | None = None,
        **more: str,
    ) -> Method:
        replies = {None: self.message, "": empty_pb2.Empty}
        return Method(
            rpc=f"{self.service}.{rpc}",
            api=f"monitoring.projects.{self.path}.{verb}",
            request=_type(f"{rpc}Request"),
            reply=replies[reply] if reply in replies else _type(str(reply)),
            run=run,
            verb=http,
            of=of,
            **more,
        )


class Kept:
    """Messages by their names, in a file.

    Args:
        file: It.
        kind: The type of the messages.
        missing: What is said of a name that isn't there, before the name.

    Raises:
        ValueError: The file can't be read.
    """

    def __init__(self, file: Path, kind: type[Any], *, missing: str) -> None:
        self._file = file
        self._missing = missing
        self._messages: dict[str, Any] = {}
        for kept in read_kept(file) or []:
            message = json_format.ParseDict(kept, kind(), ignore_unknown_fields=True)
            self._messages[message.name] = message

    def __len__(self) -> int:
        """How many there are."""
        return len(self._messages)

    def __iter__(self) -> Iterator[Any]:
        """All, oldest first."""
        return iter(list(self._messages.values()))

    def find(self, name: str) -> Any | None:
        """The one of this name."""
        return self._messages.get(name)

    def named(self, name: str) -> Any:
        """The one of this name.

        Raises:
            GoogleError: 404.
        """
        found = self._messages.get(name)
        if found is None:
            raise not_found(f"{self._missing} {name}.")
        return found

    def put(self, message: Any) -> None:
        """Add one, or replace that of its name."""
        self._messages[message.name] = message
        self.save()

    def remove(self, name: str) -> None:
        """Forget one."""
        del self._messages[name]
        self.save()

    def save(self) -> None:
        """Keep what has changed in them."""
        keep(self._file, [json_format.MessageToDict(one) for one in self])


def refuse_name(message: Any, field: str) -> None:
    """Refuse a new message that has a name already.

    Raises:
        GoogleError: 400.
    """
    if message.name:
        raise invalid_argument(
            f'Field {field}.name had an invalid value of "{message.name}": must not be set; it is'
            " assigned."
        )


def check_user_labels(labels: Any, field: str) -> None:
    """Refuse labels that are none of Monitoring's.

    Raises:
        GoogleError: 400.
    """
    if len(labels) > _MOST_USER_LABELS:
        raise invalid_argument(
            f'Field {field}.user_labels had an invalid value of "size={len(labels)}": at most'
            f" {_MOST_USER_LABELS}."
        )
    for key, value in labels.items():
        if not _USER_LABEL.fullmatch(key):
            raise invalid_argument(
                f'Field {field}.user_labels had an invalid value of "{key}": keys begin with a'
                " letter and have lowercase letters, numerals, underscores and dashes, at most 63."
            )
        if not _USER_VALUE.fullmatch(value):
            raise invalid_argument(
                f'Field {field}.user_labels[{key}] had an invalid value of "{value}": values have'
                " lowercase letters, numerals, underscores and dashes, at most 63."
            )


def field_of(message: Any, name: str, *plain: str) -> str | None:
    """The value of a field that filters can name: a user label, or one of the plain ones."""
    kind, _, label = name.partition(".")
    if label and kind in ("user_labels", "userLabels"):
        return message.user_labels.get(label) if label in message.user_labels else None
    if name == "enabled":
        return str(message.enabled.value).lower()
    known = {"displayName": "display_name"}.get(name, name)
    return str(getattr(message, known)) if known in ("name", "display_name", *plain) else None


def ordered(
    found: Iterable[Any], order_by: str, fields: Mapping[str, Callable[[Any], str]]
) -> list[Any]:
    """Sorted by fields such as ``-display_name``.

    Raises:
        GoogleError: 400 for a field that is none of these.
    """
    result = list(found)
    for name in reversed([n.strip() for n in order_by.split(",") if n.strip()]):
        key = fields.get(name.lstrip("-+"))
        if key is None:
            raise invalid_argument(f'Field order_by had an invalid value of "{order_by}".')
        result.sort(key=key, reverse=name.startswith("-"))
    return result


def new_id() -> str:
    """An id as Monitoring assigns them."""
    return str(secrets.randbelow(9 * 10**18) + 10**18)


def record(now: float) -> Any:
    """Who changed something, and when: the person at the keyboard, now."""
    made = types.MutationRecord.pb()(mutated_by="you@example.org")
    made.mutate_time.FromNanoseconds(int(now * 1e9))
    return made


def masked(known: Any, wanted: Any, paths: Any, field: str) -> Any:
    """What a message becomes: `wanted`, or with a mask only those of its fields.

    Raises:
        GoogleError: 400: a path of the mask leads nowhere.
    """
    changed = type(known)()
    if not paths:
        changed.CopyFrom(wanted)
        return changed
    changed.CopyFrom(known)
    for path in paths:
        _take_over(changed, wanted, path.split("."), f"{field}.{path}")
    changed.name = known.name
    return changed


def _take_over(into: Any, source: Any, path: list[str], shown: str) -> None:
    name, rest = path[0], path[1:]
    field = next((f for f in into.DESCRIPTOR.fields if name in (f.name, f.json_name)), None)
    if field is None:
        raise _unknown_path(shown)
    is_map = bool(
        field.is_repeated and field.message_type and field.message_type.GetOptions().map_entry
    )
    if not rest:
        into.ClearField(field.name)
        if is_map:
            getattr(into, field.name).update(getattr(source, field.name))
        elif field.is_repeated:
            getattr(into, field.name).extend(getattr(source, field.name))
        elif not field.message_type:
            setattr(into, field.name, getattr(source, field.name))
        elif source.HasField(field.name):
            getattr(into, field.name).CopyFrom(getattr(source, field.name))
        return
    if is_map:
        key = ".".join(rest).strip('`"')
        target, given = getattr(into, field.name), getattr(source, field.name)
        target.pop(key, None)
        if key in given:
            target[key] = given[key]
        return
    if field.is_repeated or not field.message_type:
        raise _unknown_path(shown)
    _take_over(getattr(into, field.name), getattr(source, field.name), rest, shown)


def _unknown_path(shown: str) -> Exception:
    return invalid_argument(f'Field update_mask had an invalid value of "{shown}": unknown path.')


def _type(name: str) -> type[Any]:
    found: type[Any] = getattr(types, name).pb()
    return found
