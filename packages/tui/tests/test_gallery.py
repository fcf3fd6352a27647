"""The pictures of README and docs/console.md are what the console shows, of a sweep made up.

`make pictures` draws them anew, with those of the other tests: look at them then.
"""

import os
import re
from pathlib import Path
from typing import Final

import pytest
from textual.widgets import Input

from sinergym_tui.app import Console

from .conftest import until_shown
from .test_pictures import NOW, SCREENS, Still
from .test_pictures_of_places import place

ROOT: Final = Path(__file__).parents[3]
IMAGES: Final = ROOT / "docs/images"
SIZE: Final = (132, 34)
GALLERY: Final = {
    # What is shown -> its file.
    "sweeps": "console",
    **{name: name for name in ("sweep", "experiment", "logs", "launch", "compare", "incidents")},
    **{name: name for name in ("alerts", "tracking", "doctor", "leftovers", "rehearsal", "help")},
}


async def drawn(name: str) -> str:
    """One screen as SVG; its letters come from the reader's machine, not from a server."""
    app = Console(lambda _tell: Still(), clock=lambda: NOW)
    async with app.run_test(size=SIZE) as pilot:
        await until_shown(pilot, "▸ ppo-hot")
        if name in SCREENS:
            keys, awaited = SCREENS[name]
        else:
            screen, keys, awaited = place(name)
            app.push_screen(screen)
            await pilot.pause(0.3)
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.1)
        await until_shown(pilot, "time steps" if name == "experiment" else awaited)
        for field in app.screen.query(Input):
            field.cursor_blink = False
        await pilot.pause(0.5)
        picture = app.export_screenshot(title="sinergym-tui", simplify=True)
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


@pytest.mark.parametrize("name", GALLERY)
@pytest.mark.slow
async def test_a_picture_of_the_docs_is_true(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one that is drawn now."""
    monkeypatch.setenv("TZ", "UTC")
    kept = IMAGES / f"{GALLERY[name]}.svg"
    picture = await drawn(name)
    if os.environ.get("UPDATE_PICTURES"):
        kept.write_text(picture, encoding="utf-8")
    assert kept.exists(), f"{kept.name}: draw it with `make pictures`, and look at it"
    assert picture.splitlines() == kept.read_text(encoding="utf-8").splitlines()


def test_every_screen_is_in_the_readme() -> None:
    """Each picture once, with words for those who don't see it; and none that isn't drawn."""
    shown = re.findall(
        r"!\[([^\]]+)\]\(docs/images/(\w+)\.svg\)", (ROOT / "README.md").read_text()
    )
    assert sorted(file for _, file in shown) == sorted(GALLERY.values())
    assert all(len(words) > 20 for words, _ in shown)
    assert {path.stem for path in IMAGES.glob("*.svg")} == set(GALLERY.values())
