"""Command lines: which need a shell, and what those that don't need mean."""

import re
import shlex


def simple_words(line: str) -> list[str] | None:
    """The words of a command line that needs no shell; None when it does."""
    quote = ""
    previous = " "
    skip = False
    for character in line:
        if skip:
            skip = False
        elif quote == "'":
            quote = "" if character == "'" else quote
        elif character == "\\":
            skip = True
        elif character in "$`":
            return None
        elif quote:
            quote = "" if character == '"' else quote
        elif character in "'\"":
            quote = character
        elif character in "|&;<>()\n*?[" or (character in "#~!" and previous.isspace()):
            return None
        previous = character
    try:
        words = shlex.split(line)
    except ValueError:
        return None
    if words and re.match(r"\w+=", words[0]):
        return None
    return words


def parts_of(line: str) -> list[tuple[str, str]]:
    """A line cut at ``;``, newline, ``&&``, ``||`` outside of quotes, with what stood before."""
    found, start, joint = [], 0, ";"
    pattern = re.compile(r"'[^']*'|\"(?:\\.|[^\"])*\"|\\.|(&&|\|\||;|\n)")
    for match in pattern.finditer(line):
        if match[1]:
            found.append((joint, line[start : match.start()].strip()))
            joint, start = match[1], match.end()
    found.append((joint, line[start:].strip()))
    return [(joint, part) for joint, part in found if part]
