"""What the docker command shows: rows, tables, inspections, and Go's templates after --format."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from gcp_emulator.docker.containers import Container, Entry
from gcp_emulator.docker.streams import Streams
from gcp_emulator.docker.words import DockerError, Flags, image_id, name_and_tag


def passes(container: Container, flags: Flags) -> bool:
    """Whether ``ps`` shows it: all or running, and each ``--filter``."""
    filters: dict[str, list[str]] = {}
    for text in flags.all("filter"):
        name, equals, value = text.partition("=")
        if not equals:
            raise DockerError(
                125,
                f'invalid argument "{text}" for "-f, --filter" flag: invalid filter \'{text}\'',
            )
        filters.setdefault(name, []).append(value)
    if not (flags.on("all") or "status" in filters or "exited" in filters) and not (
        container.status in ("running", "restarting") or flags.on("latest") or flags.one("last")
    ):
        return False
    for name, values in filters.items():
        if name not in _FILTERS:
            raise DockerError(1, f"Error response from daemon: invalid filter '{name}'")
        if not any(_FILTERS[name](container, value) for value in values):
            return False
    return True


def _has_label(container: Container, text: str) -> bool:
    name, equals, value = text.partition("=")
    labels = container.spec.labels
    return labels.get(name) == value if equals else name in labels


_FILTERS: Final[Mapping[str, Callable[[Container, str], bool]]] = {
    # Docker searches the pattern in the name, with and without its slash.
    "name": lambda c, v: bool(re.search(v, c.spec.name) or re.search(v, f"/{c.spec.name}")),
    "id": lambda c, v: c.id.startswith(v),
    "status": lambda c, v: c.status == v,
    "exited": lambda c, v: c.status == "exited" and str(c.exit_code) == v,
    "ancestor": lambda c, v: v in (c.spec.image, name_and_tag(c.spec.image)[0]),
    "label": _has_label,
}


def row_of(container: Container, cut: bool) -> dict[str, str]:
    """A line of ``ps``, with the names that its templates know."""
    command = " ".join((*container.spec.entrypoint, *container.spec.args))
    command = command[:19] + "…" if cut and len(command) > 20 else command
    return {
        "Command": f'"{command}"',
        "CreatedAt": container.created.strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
        "ID": container.id[:12] if cut else container.id,
        "Image": container.spec.image,
        "Labels": ",".join(f"{k}={v}" for k, v in container.spec.labels.items()),
        "LocalVolumes": "0",
        "Mounts": "",
        "Names": container.spec.name,
        "Networks": container.spec.network,
        "Ports": "",
        "RunningFor": f"{ago(container.created)} ago",
        "Size": "0B",
        "State": container.status,
        "Status": _status(container),
    }


def _status(container: Container) -> str:
    if container.running and container.started:
        return f"Up {ago(container.started)}"
    if container.status == "restarting" and container.finished:
        return f"Restarting ({container.exit_code}) {ago(container.finished)} ago"
    if container.status == "exited" and container.finished:
        return f"Exited ({container.exit_code}) {ago(container.finished)} ago"
    return "Created"


def ago(moment: datetime) -> str:
    """As Docker's units.HumanDuration."""
    seconds = int((datetime.now(UTC) - moment).total_seconds())
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = round(seconds / 3600)
    if hours == 1:
        return "About an hour"
    return f"{hours} hours" if hours < 48 else f"{hours // 24} days"


def inspection(container: Container) -> dict[str, Any]:
    """What ``inspect`` says."""
    spec = container.spec
    path, *before = spec.entrypoint
    return {
        "Id": container.id,
        "Created": _stamp(container.created),
        "Path": path,
        "Args": [*before, *spec.args],
        "State": {
            "Status": container.status,
            "Running": container.running,
            "Paused": False,
            "Restarting": container.status == "restarting",
            "OOMKilled": False,
            "Dead": False,
            "Pid": container.task.pid if container.running and container.task else 0,
            "ExitCode": container.exit_code,
            "Error": container.error,
            "StartedAt": _stamp(container.started),
            "FinishedAt": _stamp(container.finished),
        },
        "Image": image_id(spec.image),
        "Name": f"/{spec.name}",
        "RestartCount": container.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "LogPath": str(container.folder / "log"),
        "HostConfig": {
            "NetworkMode": spec.network,
            "RestartPolicy": {"Name": spec.restart, "MaximumRetryCount": spec.restarts_at_most},
            "AutoRemove": spec.auto_remove,
            "LogConfig": {"Type": spec.log_driver, "Config": dict(spec.log_options)},
            "Privileged": spec.privileged,
        },
        "Mounts": [],
        "Config": {
            "Hostname": container.environment.get("HOSTNAME", ""),
            "Tty": spec.terminal is not None,
            "OpenStdin": spec.stdin,
            "Env": [f"{name}={value}" for name, value in spec.environment.items()],
            "Cmd": list(spec.args) or None,
            "Image": spec.image,
            "WorkingDir": spec.workdir,
            "Entrypoint": list(spec.entrypoint),
            "Labels": dict(spec.labels),
        },
    }


def _stamp(moment: datetime | None) -> str:
    if moment is None:
        return "0001-01-01T00:00:00Z"
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def time_of(entry: Entry) -> str:
    """An entry's time as ``logs --timestamps`` shows it."""
    seconds, rest = divmod(entry.time_ns, 10**9)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"


def moment_of(text: str) -> int:
    """What ``--since`` takes: seconds since 1970, RFC 3339, or a duration such as 10m."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        whole, _, part = text.partition(".")
        return int(whole) * 10**9 + int(part.ljust(9, "0")[:9] or 0)
    if re.fullmatch(r"(\d+(\.\d+)?(h|m|s|ms))+", text):
        units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
        back = timedelta(seconds=sum(float(n) * units[unit] for n, unit in parts))
        return int((datetime.now(UTC) - back).timestamp() * 1e9)
    with suppress(ValueError):
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        fraction = re.search(r"\.(\d+)", text)
        nanoseconds = int(fraction[1].ljust(9, "0")[:9]) if fraction else 0
        return int(moment.replace(microsecond=0).timestamp()) * 10**9 + nanoseconds
    raise DockerError(
        1, f'invalid value for "since": failed to parse value as time or duration: "{text}"'
    )


def _usage_of(pid: int) -> tuple[int, int]:
    """Resident bytes and threads of a process (proc(5))."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0, 0
    memory = re.search(r"VmRSS:\s+(\d+) kB", status)
    threads = re.search(r"Threads:\s+(\d+)", status)
    return int(memory[1]) * 1024 if memory else 0, int(threads[1]) if threads else 0


def usage_row(container: Container) -> dict[str, str]:
    """A line of ``stats``."""
    memory, threads = _usage_of(container.task.pid if container.running and container.task else 0)
    return {
        "ID": container.id[:12],
        "Container": container.id[:12],
        "Name": container.spec.name,
        "CPUPerc": "--",
        "MemUsage": f"{memory / 2**20:.4g}MiB / --",
        "PIDs": str(threads),
    }


async def print_rows(
    streams: Streams, rows: Iterable[Mapping[str, str]], columns: Mapping[str, str], template: str
) -> None:
    """Print rows as a table, or each by the template."""
    rows = list(rows)
    table = template.startswith("table ")
    if not template or template == "table" or table:
        if table:
            parts = template.removeprefix("table ").replace("\\t", "\t").split("\t")
            head = [render(part, {**columns, **_titles(part, columns)}) for part in parts]
            body = [[render(part, row) for part in parts] for row in rows]
        else:
            head = list(columns.values())
            body = [[row[name] for name in columns] for row in rows]
        await streams.out(_aligned([head, *body]))
        return
    await streams.out("".join(render(template, row) + "\n" for row in rows))


def _titles(part: str, columns: Mapping[str, str]) -> dict[str, str]:
    names = re.findall(r"{{\s*\.(\w+)\s*}}", part)
    return {name: columns.get(name, name.upper()) for name in names}


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    shown = (
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "\n".join(shown) + "\n"


_ACTION = re.compile(r"{{-?\s*(.*?)\s*-?}}")


def render(template: str, facts: Mapping[str, Any]) -> str:
    """The part of Go's text/template that people write after ``--format``."""
    if template == "json":
        template = "{{json .}}"

    def action(match: re.Match[str]) -> str:
        words = str(match[1]).split()
        as_json = len(words) == 2 and words[0] == "json"
        if not (as_json or len(words) == 1) or not words[-1].startswith("."):
            raise DockerError(
                1, f"template parsing error: {{{{{match[1]}}}}} is not emulated by the local cloud"
            )
        value: Any = facts
        for name in filter(None, words[-1].split(".")):
            if not isinstance(value, Mapping) or name not in value:
                raise DockerError(
                    1,
                    f'template: :1:2: executing "" at <{words[-1]}>: '
                    f'map has no entry for key "{name}"',
                )
            value = value[name]
        return json.dumps(value, separators=(",", ":")) if as_json else _go(value)

    return _ACTION.sub(action, template.replace("\\t", "\t").replace("\\n", "\n"))


def _go(value: object) -> str:
    """How Go's fmt prints it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "<nil>"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{k}:{_go(v)}" for k, v in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(_go(v) for v in value) + "]"
    return str(value)
