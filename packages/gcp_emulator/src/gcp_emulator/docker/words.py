"""What is said to the docker command: flags, environment files, image references; and refusals."""

import hashlib
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

type Words = Sequence[str]


class DockerError(Exception):
    """Docker's refusal: text for standard error and exit code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


# Long name of a flag -> its short one, and "=" if it takes a value.
RUN: Final = {
    "name": "=", "detach": "d", "rm": "", "network": "=", "net": "=", "env": "e=",
    "env-file": "=", "volume": "v=", "mount": "=", "log-driver": "=", "log-opt": "=",
    "restart": "=", "entrypoint": "=", "workdir": "w=", "init": "", "privileged": "",
    "interactive": "i", "tty": "t", "label": "l=", "user": "u=", "pull": "=", "quiet": "q",
    "hostname": "h=", "memory": "m=", "cpus": "=", "gpus": "=", "shm-size": "=",
    "stop-timeout": "=", "stop-signal": "=", "publish": "p=", "pid": "=", "ipc": "=",
    "device": "=", "ulimit": "=", "tmpfs": "=", "cap-add": "=", "cap-drop": "=",
    "security-opt": "=", "oom-score-adj": "=", "read-only": "", "platform": "=", "sig-proxy": "",
    "add-host": "=", "cgroupns": "=", "attach": "a=", "cidfile": "=",
}  # fmt: skip
EXEC: Final = {
    "interactive": "i", "tty": "t", "env": "e=", "env-file": "=", "workdir": "w=", "user": "u=",
    "detach": "d", "privileged": "",
}  # fmt: skip
PS: Final = {
    "all": "a", "quiet": "q", "filter": "f=", "format": "=", "no-trunc": "", "last": "n=",
    "latest": "l", "size": "s",
}  # fmt: skip
IMAGES: Final = {
    "all": "a", "quiet": "q", "format": "=", "filter": "f=", "no-trunc": "",
}  # fmt: skip
INSPECT: Final = {
    "format": "f=", "type": "=", "size": "s",
}  # fmt: skip
LOGS: Final = {
    "follow": "f", "tail": "n=", "since": "=", "until": "=", "timestamps": "t", "details": "",
}  # fmt: skip
STOP: Final = {
    "time": "t=", "timeout": "=", "signal": "s=",
}  # fmt: skip
RM: Final = {
    "force": "f", "volumes": "v", "link": "l",
}  # fmt: skip
PULL: Final = {
    "quiet": "q", "all-tags": "a", "platform": "=", "disable-content-trust": "",
}  # fmt: skip
STATS: Final = {
    "no-stream": "", "all": "a", "format": "=", "no-trunc": "",
}  # fmt: skip


@dataclass(slots=True)
class Flags:
    """What was given: flags by their long names, and the other words."""

    given: dict[str, list[str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def on(self, name: str) -> bool:
        """Whether a flag without a value was given."""
        return self.given.get(name, ["false"])[-1] != "false"

    def one(self, name: str, default: str = "") -> str:
        """The last value of a flag."""
        return self.given.get(name, [default])[-1]

    def all(self, name: str) -> list[str]:
        """All values of a flag."""
        return self.given.get(name, [])


def parse(
    command: str,
    words: Words,
    known: Mapping[str, str],
    usage: str,
    *,
    at_least: int = 0,
    at_most: int | None = None,
) -> Flags:
    """Read flags as Docker's pflag does; ``run`` and ``exec`` stop at the first other word."""
    shorts = {kind[0]: name for name, kind in known.items() if kind not in ("", "=")}
    flags = Flags()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            flags.words += rest
            break
        if not word.startswith("-") or word == "-":
            flags.words.append(word)
            if command in ("run", "exec"):
                flags.words += rest
                break
            continue
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name not in known:
                raise _usage_error(command, f"unknown flag: --{name}", usage)
            if not known[name].endswith("="):
                value = value if equals else "true"
            elif not equals:
                if not rest:
                    raise _usage_error(command, f"flag needs an argument: --{name}", usage)
                value = rest.pop(0)
            flags.given.setdefault("network" if name == "net" else name, []).append(value)
            continue
        _parse_short(
            command, word=word, rest=rest, flags=flags, known=known, shorts=shorts, usage=usage
        )
    if len(flags.words) < at_least or (at_most is not None and len(flags.words) > at_most):
        need = f"at least {at_least}" if at_most is None else f"{at_most}"
        if at_most == 0:
            said = f"docker: 'docker {command}' accepts no arguments"
        else:
            said = f"docker: 'docker {command}' requires {need} argument" + "s" * (need[-1] != "1")
        raise DockerError(1, f"{said}\n\n{_usage(command, usage)}")
    return flags


def _parse_short(
    command: str,
    *,
    word: str,
    rest: list[str],
    flags: Flags,
    known: Mapping[str, str],
    shorts: Mapping[str, str],
    usage: str,
) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in shorts:
            said = f"unknown shorthand flag: '{letter}' in {word}"
            raise _usage_error(command, said, usage)
        name = shorts[letter]
        value = "true"
        if known[name].endswith("="):
            if not letters and not rest:
                said = f"flag needs an argument: '{letter}' in {word}"
                raise _usage_error(command, said, usage)
            value, letters = (letters.removeprefix("=") or rest.pop(0)), ""
        elif letters.startswith("="):
            value, letters = letters[1:], ""
        flags.given.setdefault(name, []).append(value)


def _usage(command: str, usage: str) -> str:
    return (
        f"Usage:  docker {command} [OPTIONS] {usage}".rstrip()
        + f"\n\nRun 'docker {command} --help' for more information"
    )


def _usage_error(command: str, said: str, usage: str) -> DockerError:
    return DockerError(125, f"{said}\n\n{_usage(command, usage)}")


def explained(command: str, said: str) -> str:
    """As ``docker run`` and ``exec`` wrap a refusal."""
    return f"docker: {said}\n\nRun 'docker {command} --help' for more information"


def pair(text: str) -> tuple[str, str]:
    """``NAME=VALUE`` in two."""
    name, _, value = text.partition("=")
    return name, value


def environment_file(root: Path, path: str) -> dict[str, str]:
    """Read as https://docs.docker.com/reference/cli/docker/container/run/#env says."""
    inside = (root / path.lstrip("/")).resolve()
    if not inside.is_relative_to(root.resolve()) or not inside.is_file():
        raise DockerError(125, f"open {path}: no such file or directory")
    found = {}
    for line in inside.read_text(encoding="utf-8").splitlines():
        text = line.lstrip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not name:
            raise DockerError(125, f"no variable name on line '{text}'")
        if name != name.strip() or " " in name:
            raise DockerError(125, f"variable '{name}' contains whitespaces")
        if equals:
            found[name] = value
    return found


def grace_of(flags: Flags) -> float:
    """Seconds between the signal and the kill: ``-t``, or ten."""
    text = flags.one("time") or flags.one("timeout") or "10"
    try:
        seconds = float(text)
    except ValueError as error:
        raise DockerError(125, f'invalid argument "{text}" for "-t, --timeout" flag') from error
    return seconds if seconds >= 0 else 10**9


def signal_of(text: str) -> int:
    """The number of a signal."""
    name = text.upper().removeprefix("SIG")
    if name.isdecimal() and 0 < int(name) < signal.NSIG:
        return int(name)
    try:
        return signal.Signals[f"SIG{name}"]
    except KeyError as error:
        raise DockerError(1, f"Error response from daemon: invalid signal: {text}") from error


# https://github.com/distribution/reference/blob/main/reference.go
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)"
)
_REFERENCE = re.compile(
    rf"(?:{_HOST}(?::[0-9]+)?/)?{_PART}(?:/{_PART})*"
    r"(?::\w[\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)


def check_image(image: str) -> None:
    """Refuse an image reference as Docker's own parser does."""
    if _REFERENCE.fullmatch(image):
        return
    name, _tag = name_and_tag(image.partition("@")[0])
    if name != name.lower() and _REFERENCE.fullmatch(image.lower()):
        raise DockerError(
            125, f"invalid reference format: repository name ({name}) must be lowercase"
        )
    raise DockerError(125, "invalid reference format")


def name_and_tag(image: str) -> tuple[str, str]:
    """An image reference without digest, in two; ``latest`` without a tag."""
    name, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:
        return image, "latest"
    return name, tag


def last_part(image: str) -> str:
    """What an image is called: the last part of its path, without tag and digest."""
    return name_and_tag(image.partition("@")[0])[0].rpartition("/")[2]


def parse_program(text: str) -> tuple[str, tuple[str, ...]]:
    """``REPOSITORY=PROGRAM``: the last part of an image's name, and its entry point's words.

    Raises:
        ValueError: It is not that; in one line.
    """
    name, _, program = text.partition("=")
    try:
        words = tuple(shlex.split(program))
    except ValueError as error:
        raise ValueError(f"image {text!r}: {error}") from error
    if not re.fullmatch(_PART, name) or not words:
        raise ValueError(
            f"image {text!r}: REPOSITORY=PROGRAM is meant, such as mlflow-server=my-program, with"
            " the last part of the image's name, without tag"
        )
    return name, words


def manifest_unknown(image: str) -> str:
    """What a registry says of an image that it does not have, as the daemon passes it on."""
    _name, tag = name_and_tag(image.partition("@")[0])
    if re.match(r"[^/]*(?:docker\.pkg\.dev|gcr\.io)/", image):
        reason = f'Failed to fetch "{image.partition("@")[2] or tag}"'
    else:
        reason = "manifest unknown"
    return f"manifest for {image} not found: manifest unknown: {reason}"


def image_id(image: str) -> str:
    """The id that stands for an image."""
    return "sha256:" + hashlib.sha256(image.encode()).hexdigest()


def pull_report(image: str, digest: str) -> str:
    """What a pull says at its end."""
    _name, tag = name_and_tag(image.partition("@")[0])
    return (
        f"{tag}: Pulling from {_name.partition('/')[2] or 'library/' + _name}\n"
        f"Digest: {digest}\nStatus: Downloaded newer image for {image}\n"
    )
