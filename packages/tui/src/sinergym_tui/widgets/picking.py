"""A window in which a sweep file is picked. Imported only where one is."""

from pathlib import Path

from textual_fspicker import FileOpen, Filters

__all__ = ["SweepFilePicker"]


class SweepFilePicker(FileOpen):
    """Shows YAML files, or all.

    Args:
        folder: Where to begin; in its `examples`, if it has some.
    """

    DEFAULT_CSS = """
    SweepFilePicker {
        & Dialog { width: 76; max-width: 100%; height: 90%; border: round $primary;
            background: $surface; }
        & Dialog OptionList, & Dialog OptionList:focus { background: $surface; }
        & InputBar { padding: 0; }
        & InputBar Input { width: 1fr; }
        & InputBar Select { width: 19; }
        & InputBar Button { min-width: 10; width: 10; }
    }
    """

    def __init__(self, folder: Path) -> None:
        examples = folder / "examples"
        filters = Filters(
            ("Sweep files", lambda path: path.suffix in {".yaml", ".yml"}),
            ("All files", lambda _path: True),
        )
        super().__init__(
            examples if examples.is_dir() else folder, "Open a sweep file", filters=filters
        )
