"""Draw the pictures of docs/console.md: the screens, on a sweep that is made up.

    python docs/images/console.py
"""

import asyncio
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from packages.tui.tests.test_pictures import NOW, SCREENS, Still
from sinergym_tui.app import Console

SIZE = (132, 34)
DRAWN = {"sweeps": "console", "sweep": "sweep", "experiment": "experiment", "logs": "logs"}


async def draw(screen: str) -> str:
    """One screen as SVG."""
    app = Console(lambda _tell: Still(), clock=lambda: NOW)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(1.0)
        for key in SCREENS[screen][0]:
            await pilot.press(key)
            await pilot.pause(0.3)
        await pilot.pause(2.0)
        picture = app.export_screenshot(title="sinergym-tui", simplify=True)
    # The letters come from the reader's machine, not from a server.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    for name, file in DRAWN.items():
        target = Path(__file__).with_name(f"{file}.svg")
        target.write_text(asyncio.run(draw(name)), encoding="utf-8")
