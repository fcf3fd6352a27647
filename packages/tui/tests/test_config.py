from pathlib import Path

import pytest

from gcloud_ops.errors import InvalidRequest
from sinergym_tui.actions import ACTIONS, actions_of
from sinergym_tui.config import Config, read_config

THEMES = ("nord", "gruvbox")


def read(tmp_path: Path, text: str) -> Config:
    """Read a file with this text."""
    file = tmp_path / "console.toml"
    file.write_text(text)
    return read_config(file, themes=THEMES)


def test_theme_and_keys_are_read(tmp_path: Path) -> None:
    """By the ids that the help's registry has."""
    config = read(tmp_path, 'theme = "nord"\n[keys]\nrefresh = "f5"\n"sweeps.launch" = "ctrl+l"\n')

    assert config == Config(theme="nord", keys={"refresh": "f5", "sweeps.launch": "ctrl+l"})


def test_no_file_is_no_error(tmp_path: Path) -> None:
    """Unless it was named."""
    assert read_config(tmp_path / "none", themes=THEMES) == Config()
    with pytest.raises(InvalidRequest, match="no such file"):
        read_config(tmp_path / "none", themes=THEMES, required=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('\ntheme = "nrod"\n', ":2: theme: there is no 'nrod' (did you mean 'nord'?)"),
        ('thme = "nord"\n', ":1: unknown key 'thme' (did you mean 'theme'?)"),
        ('theme = "nord"\n[keys]\nrefrsh = "f5"\n', ":3: keys: no action 'refrsh'"),
        ('[keys]\nrefresh = "F 5"\n', ":2: keys: 'F 5' is no key"),
        ("[keys]\n\nrefresh = 5\n", ":3: keys: 5 is no key"),
        ('[keys]\nrefresh = "q"\n', ":2: keys: 'q' is leave's already"),
        ("theme = \n", ":1: not TOML"),
        ("keys = 3\n", ":1: keys: must be a table"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    """File, line, what, and what is near."""
    with pytest.raises(InvalidRequest) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)


@pytest.mark.parametrize("scope", sorted({scope for each in ACTIONS for scope in each.scopes}))
def test_no_screen_has_a_key_twice(scope: str) -> None:
    """Each key does one thing on one screen, and each action has a name of its own."""
    actions = actions_of(scope)
    keys = [key for each in actions for key in each.key.split(",")]

    assert len(keys) == len(set(keys))
    assert len({each.name for each in actions}) == len(actions)
    assert all(each.help and each.label for each in actions)
