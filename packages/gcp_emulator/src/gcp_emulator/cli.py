"""The ``gcp-emulator`` command: run a local cloud, find it, end it, wipe it.

Standard output is for programs (``export`` lines, a status), standard error for people.
Exit codes: 0 done, 1 it did not work (the reason is on standard error), 2 wrong usage.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

app = App(
    name="gcp-emulator",
    help="A local cloud: Google Cloud wire protocols on loopback, with VMs that really run.",
    version_flags=["--version"],
)

type Folder = Annotated[
    Path | None,
    Parameter(help="The cloud's folder (default: $GCP_EMULATOR_FOLDER, or the user's own)."),
]

type Mishap = Literal[
    "preempt",
    "expire",
    "kill",
    "kill-container",
    "refuse-ssh",
    "hang-ssh",
    "cut-ssh",
    "disk-full",
    "stock-out",
    "stock-in",
    "quota-out",
    "quota-in",
    "cut-iap",
]


@app.default
def serve(
    *,
    folder: Folder = None,
    port: int = 0,
    project: str = "local",
    zone: str = "europe-west1-b",
    engine: Literal["process", "inert"] = "process",
    capacity: str | None = None,
    boot_seconds: float = 1.0,
    pull_seconds: float = 0.5,
    idle_minutes: float = 0.0,
    smtp: str | None = None,
    image: Annotated[list[str] | None, Parameter(negative=())] = None,
    known_image: Annotated[list[str] | None, Parameter(negative=())] = None,
    companion: Annotated[list[str] | None, Parameter(negative=())] = None,
) -> int:
    """Run a cloud in the foreground; prints `export NAME=VALUE` lines once it is ready.

    Args:
        folder: Where the cloud keeps its state and is found
            (default: $GCP_EMULATOR_FOLDER, or this user's data folder).
        port: Port of the Google APIs on 127.0.0.1; 0 takes a free one.
        project: The id of the only project.
        zone: The zone that people are told of.
        engine: process: containers are local processes that really work; inert: states only.
        capacity: How many instances run at once, or "unlimited"
            (default: this machine's processors for process, unlimited for inert).
        boot_seconds: How long an instance boots.
        pull_seconds: How long the pull of an image takes.
        idle_minutes: End after so many minutes without an instance or a request; 0 never.
        smtp: HOST:PORT of an SMTP server on this machine that Cloud Monitoring's e-mails go to;
            without one they stay in the inbox.
        image: REPOSITORY=PROGRAM, the entry point of an image, named by the last part of its path
            (default: sinergym-runner for all). Can be given several times.
        known_image: An image that registries have, with its registry and tag; others then can't be
            pulled (default: every image is there). Can be given several times.
        companion: NAME=COMMAND, run as long as the cloud; {port} becomes a free port, {folder} a
            folder of its own. Can be given several times.
    """
    import asyncio
    import logging

    from gcp_emulator import serving
    from gcp_emulator.companions import parse_companion

    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get("GCP_EMULATOR_LOG", "WARNING").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # It tells of each connection and each command, which are none of a log's business.
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    try:
        options = serving.ServeOptions(
            folder=_folder(folder),
            port=_within("--port", port, 0, 65_535),
            project=project,
            zone=zone,
            engine=engine,
            capacity=_capacity(capacity),
            boot_seconds=_within("--boot-seconds", boot_seconds, 0, 3_600),
            pull_seconds=_within("--pull-seconds", pull_seconds, 0, 3_600),
            idle_minutes=_within("--idle-minutes", idle_minutes, 0, 1e6),
            smtp=_smtp(smtp),
            images=_images(image or []),
            known_images=known_image,
            companions=[parse_companion(text) for text in companion or []],
        )
    except ValueError as error:
        return _complain(str(error), code=2)

    def ready(known: dict[str, Any]) -> None:
        _print_exports(known)
        for name, one in known["companions"].items():
            print(f"gcp-emulator: {name} is at {one['url']}", file=sys.stderr)

    try:
        asyncio.run(serving.serve(options, ready))
    except serving.CloudError as error:
        return _complain(str(error))
    return 0


app.command(serve, name="serve")


@app.command
def status(*, folder: Folder = None, output: Literal["table", "json"] = "table") -> int:
    """Say what runs in the folder's cloud; exit code 1 when there is none."""
    import json

    from gcp_emulator import serving

    known = serving.find(_folder(folder))
    if known is None:
        return _complain(f"no cloud runs in {_folder(folder)}")
    if output == "json":
        print(json.dumps(known, indent=1))
        return 0
    running = sum(one["status"] == "RUNNING" for one in known["instances"])
    capacity = "unlimited" if known["capacity"] is None else known["capacity"]
    rows = {
        "endpoint": known["endpoint"],
        "pid": known["pid"],
        "project": known["project"],
        "zone": known["zone"],
        "engine": known["engine"],
        "started": known["started"],
        "folder": known["folder"],
        "instances": f"{running} running; of groups {known['running']}, capacity {capacity}",
        "groups": ", ".join(group["name"] for group in known["groups"]) or "-",
        "templates": ", ".join(known["templates"]) or "-",
    }
    rows |= {name: one["url"] for name, one in known["companions"].items()}
    for name, value in rows.items():
        print(f"{name:<10} {value}")
    return 0


@app.command
def inbox(*, folder: Folder = None, output: Literal["table", "json"] = "table") -> int:
    """List the notifications of Cloud Monitoring, and what became of each."""
    import json

    from gcp_emulator import serving

    messages = serving.inbox(_folder(folder))
    if messages is None:
        return _complain(f"no cloud runs in {_folder(folder)}")
    if output == "json":
        print(json.dumps(messages, indent=1))
        return 0
    if not messages:
        print("gcp-emulator: the inbox is empty", file=sys.stderr)
    for one in messages:
        subject = "".join(sign if sign.isprintable() else " " for sign in one["subject"])
        why = f" ({one['reason']})" if one["reason"] else ""
        print(f"{one['time']}  {one['type']:<17} {one['to']}  {one['state']}{why}\n    {subject}")
    return 0


@app.command
def befall(
    mishap: Mishap,
    /,
    *instances: str,
    grace: float = 30,
    seconds: float | None = None,
    folder: Folder = None,
    output: Literal["table", "json"] = "table",
) -> int:
    """Have something go wrong, now: with instances, or (the last five) with the whole cloud.

    Args:
        mishap: What.
        instances: The names of those that it befalls.
        grace: Seconds from the notice of a preemption to its end.
        seconds: Seconds until refuse-ssh, hang-ssh or disk-full is over again (default: never).
        folder: The cloud's.
        output: What the cloud replies, as JSON.
    """
    import json

    from gcp_emulator import serving

    how = {"grace": grace} if seconds is None else {"grace": grace, "seconds": seconds}
    try:
        replies = serving.befall(_folder(folder), mishap, instances, **how)
    except serving.CloudError as error:
        return _complain(str(error))
    if replies is None:
        return _complain(f"no cloud runs in {_folder(folder)}")
    if output == "json":
        print(json.dumps(replies, indent=1))
    for name in instances or ("the cloud",):
        print(f"gcp-emulator: {name}: {mishap}", file=sys.stderr)
    return 0


@app.command
def env(*, folder: Folder = None) -> int:
    """Print `export NAME=VALUE` lines that lead to the folder's cloud."""
    from gcp_emulator import serving

    known = serving.find(_folder(folder))
    if known is None:
        return _complain(f"no cloud runs in {_folder(folder)}")
    _print_exports(known)
    return 0


@app.command
def stop(*, folder: Folder = None) -> int:
    """End the folder's cloud, with all that runs in it."""
    from gcp_emulator import serving

    try:
        if not serving.stop(_folder(folder)):
            print(f"gcp-emulator: no cloud runs in {_folder(folder)}", file=sys.stderr)
    except serving.CloudError as error:
        return _complain(str(error))
    return 0


@app.command
def wipe(*, folder: Folder = None) -> int:
    """Remove what the folder's clouds have kept: buckets, templates, companions' files."""
    from gcp_emulator import serving

    try:
        removed = serving.wipe(_folder(folder))
    except serving.CloudError as error:
        return _complain(str(error))
    print(f"gcp-emulator: removed {', '.join(removed) or 'nothing'}", file=sys.stderr)
    return 0


def main(words: list[str] | None = None) -> None:
    """Run the command with these words, or the process's own; leaves by SystemExit."""
    try:
        code = app(words, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code or 0)


def _folder(given: Path | None) -> Path:
    if given is not None:
        return given.absolute()
    named = os.environ.get("GCP_EMULATOR_FOLDER")
    if named:
        return Path(named).absolute()
    import platformdirs

    return platformdirs.user_data_path("gcp-emulator")


def _capacity(text: str | None) -> int | Literal["default"] | None:
    if text is None:
        return "default"
    if text == "unlimited":
        return None
    if text.isdecimal():
        return int(text)
    raise ValueError(f"--capacity {text}: a whole number, or unlimited")


def _smtp(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    from gcp_emulator.monitoring.delivery import parse_smtp

    try:
        return parse_smtp(text)
    except ValueError as error:
        raise ValueError(f"--smtp {error}") from error


def _images(texts: list[str]) -> dict[str, str]:
    from gcp_emulator.docker.words import parse_program

    parsed = [parse_program(text) for text in texts]
    return {name: shlex.join(words) for name, words in parsed}


def _within[N: (int, float)](option: str, value: N, least: float, most: float) -> N:
    if not least <= value <= most:
        raise ValueError(f"{option} {value}: must be within {least:g} and {most:g}")
    return value


def _print_exports(known: dict[str, Any]) -> None:
    from gcp_emulator import serving

    for name, value in serving.exports(known).items():
        print(f"export {name}={shlex.quote(value)}")
    sys.stdout.flush()


def _complain(text: str, *, code: int = 1) -> int:
    print(f"gcp-emulator: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
