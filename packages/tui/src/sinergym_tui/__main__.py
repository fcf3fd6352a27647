"""`python -m sinergym_tui`: the command."""

from sinergym_tui.cli import main

main()
