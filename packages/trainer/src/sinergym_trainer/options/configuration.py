"""How the values of `sinergym-train` come together: flag, environment variable, file, default.

`Configuration` is a source of values for cyclopts: it gives each flag that the command line lacks
the text of its variable (`SINERGYM_TRAIN_SEED` for `--seed`), or that of the file of `--config`.
All texts, whatever their source, are read by the flag's own reader, so that they mean the same.
`python -m sinergym_trainer.options.configuration` prints the README's table of flags.
"""

import difflib
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import yaml
from cyclopts import App, Argument, ArgumentCollection, Token

from sinergym_trainer.errors import InvalidOptions
from sinergym_trainer.options.flags import MAPPINGS, EvalOptions, Options
from sinergym_trainer.options.values import Loader, RunPeriod, Settings, write_yaml

PREFIX = "SINERGYM_TRAIN_"
"""Of the environment variables."""

_ALTERNATIVES = {"episodes": "timesteps", "timesteps": "episodes"}
"""Who is given one of them takes no other from a weaker source."""
_YAML_BOOLEANS = {"on": "true", "off": "false"}
"""Those that cyclopts does not know."""
_WORD = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """The words that a source has for one option."""

    words: tuple[str, ...]
    place: str
    """The variable's name, or the file's with a line's number."""


class Configuration:
    """What environment and file add to one command line, and where each of it came from."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """Take values from these variables, by default the process's own."""
        self._environ = os.environ if environ is None else environ
        self._places: dict[str, str] = {}

    def __call__(
        self, _app: App, commands: tuple[str, ...], arguments: ArgumentCollection
    ) -> None:
        """Add to the arguments that were parsed; cyclopts calls it (`App(config=...)`).

        Raises:
            InvalidOptions: a variable or the file is wrong; in one line, with its place.
        """
        if commands:  # `sync` has flags of its own
            return
        known = {
            name.removeprefix("--"): argument
            for argument in arguments
            if (name := argument.name).startswith("--")
        }
        self._places = {}
        self._add(known, _from_environ(self._environ, known))
        if chosen := known["config"].tokens:
            self._add(known, _from_file(Path(chosen[0].value).expanduser(), known))

    def explain(self, error: InvalidOptions) -> str:
        """The error's line, with the places of those options in it that are not from flags."""
        text = str(error)
        about = text.partition(";")[0]
        named = dict.fromkeys(re.findall(r"--(\w+)", about))
        places = [
            f"--{name} is from {self._places[name]}" for name in named if name in self._places
        ]
        return f"{text} ({', '.join(places)})" if places else text

    def _add(self, known: Mapping[str, Argument], given: Mapping[str, _Given]) -> None:
        taken = {name for name, argument in known.items() if argument.tokens}
        for name, value in given.items():
            if name in taken or _ALTERNATIVES.get(name) in taken:
                continue
            self._places[name] = value.place
            argument = known[name]
            for index, word in enumerate(value.words):
                text = _YAML_BOOLEANS.get(word.lower(), word) if _is_switch(argument) else word
                argument.append(
                    Token(keyword=f"--{name}", value=text, source=value.place, index=index)
                )


def as_yaml(options: Options) -> str:
    """Options as the text of a file for `--config`, which gives equal ones again."""
    values: dict[str, Any] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        if value is None or field.name == "config":
            continue
        if isinstance(value, Settings):
            value = dict(value)
        elif isinstance(value, RunPeriod):
            value = str(value)
        values[field.name] = value
    return write_yaml(values)


def flags_table() -> str:
    """All flags as Markdown, for the README."""
    return "\n".join([*_tables("sinergym-train", Options), *_tables("sinergym-eval", EvalOptions)])


def _is_switch(argument: Argument) -> bool:
    return bool in (argument.hint, *get_args(argument.hint))


def _from_environ(environ: Mapping[str, str], known: Collection[str]) -> dict[str, _Given]:
    given = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in known or variable != PREFIX + name.upper():
            raise InvalidOptions(
                f"the variable {variable} sets nothing"
                f"{_meant(name, known, lambda close: PREFIX + close.upper())}"
            )
        text = environ[variable]
        if text:
            words = _split(variable, text) if name in MAPPINGS else (text,)
            given[name] = _Given(words=words, place=variable)
    return given


def _split(variable: str, text: str) -> tuple[str, ...]:
    """Words `key=value key=value`, as a shell would; a mapping in YAML is one word."""
    if not _WORD.match(text):
        return (text,)
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidOptions(f"{variable}: {str(error).lower()}: {text!r}") from None


def _from_file(path: Path, known: Collection[str]) -> dict[str, _Given]:
    root = _compose(path)
    if root is None:  # an empty file
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise InvalidOptions(f"--config {path} is not a mapping such as episodes: 2")
    given: dict[str, _Given] = {}
    seen: dict[str, int] = {}
    for key, node in root.value:
        line = key.start_mark.line + 1
        place = f"{path}, line {line}"
        name = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
        if name == "config":
            raise InvalidOptions(f"{place}: a file cannot name another with config")
        if name not in known:
            raise InvalidOptions(f"{place}: unknown option {name!r}{_meant(name, known, str)}")
        if name in seen:
            raise InvalidOptions(f"{place}: {name} is on line {seen[name]} already")
        seen[name] = line
        text = _text(name, node, place)
        if text is not None:
            given[name] = _Given(words=(text,), place=place)
    return given


def _compose(path: Path) -> yaml.Node | None:
    """Read the file's structure: scalars are as written, and all of it knows its line."""
    try:
        node: yaml.Node | None = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader)
    except OSError as error:
        raise InvalidOptions(f"--config {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidOptions(f"--config {path} is not a text in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise InvalidOptions(f"--config {path}{where} is not YAML: {problem}") from None
    except RecursionError:
        raise InvalidOptions(f"--config {path} is nested too deeply") from None
    return node


def _text(name: str, node: yaml.Node, place: str) -> str | None:
    """What a flag's reader gets for a value of the file; nothing for null."""
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag.endswith(":null") else node.value
    if name in MAPPINGS and isinstance(node, yaml.MappingNode):
        return str(_plain_mapping(name, node, place))
    if name == "run_period" and isinstance(node, yaml.SequenceNode):
        return ",".join(str(part.value) for part in node.value)
    kind = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
    wanted = "a mapping" if name in MAPPINGS else "one value"
    raise InvalidOptions(f"{place}: {name} takes {wanted}, not {kind}")


def _plain_mapping(name: str, node: yaml.MappingNode, place: str) -> Settings:
    loader = Loader("")
    try:
        value = loader.construct_document(node)
        if not all(isinstance(key, str) for key in value):
            raise ValueError("takes a mapping with names as keys")
        return Settings(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or error
        raise InvalidOptions(f"{place}: {name} {problem}") from None
    finally:
        loader.dispose()


def _meant(name: str, known: Collection[str], form: Callable[[str], str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {form(close[0])}?" if close else ""


def _tables(program: str, options: type) -> list[str]:
    app = App(name=program)

    def command(options: Any) -> None:
        """Only its parameters are looked at."""

    command.__annotations__["options"] = options
    app.default(command)
    lines = [f"### {program}", ""]
    group = None
    for argument in app.assemble_argument_collection(parse_docstring=True):
        if not argument.show:
            continue
        heading = argument.parameter.group[0].name  # type: ignore[index]
        if heading != group:
            if group:
                lines.append("")
            group = heading
            lines += [
                f"#### {heading}",
                "",
                "| flag | short | default | what |",
                "| --- | --- | --- | --- |",
            ]
        lines.append(_row(argument))
    return [*lines, ""]


def _row(argument: Argument) -> str:
    long = [f"`{name}`" for name in argument.names if name.startswith("--")]
    short = [f"`{name}`" for name in argument.names if not name.startswith("--")]
    default = argument.field_info.default
    if default is inspect.Parameter.empty:
        shown = "required"
    elif default is None or default is False or default == Settings():
        shown = ""
    else:
        shown = f"`{default}`"
    text = " ".join((argument.parameter.help or "").split()).replace("|", "\\|")
    return f"| {' '.join(long)} | {' '.join(short)} | {shown} | {text} |"


if __name__ == "__main__":
    sys.stdout.write(flags_table())
