"""Draw the pictures of docs/console.md: the screens, on a sweep that is made up.

python docs/images/console.py
"""

import asyncio
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from packages.tui.tests.test_pictures import NOW, SCREENS, Still
from packages.tui.tests.test_pictures_of_places import place

from sinergym_tui.app import Console

SIZE = (132, 34)
DRAWN = {"sweeps": "console", "sweep": "sweep", "experiment": "experiment", "logs": "logs"}


PLACES = ("launch", "compare")


async def draw(name: str) -> str:
    """One screen as SVG."""
    app = Console(lambda _tell: Still(), clock=lambda: NOW)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(1.0)
        if name in PLACES:
            screen, keys, _ = place(name)
            app.push_screen(screen)
        else:
            keys = SCREENS[name][0]
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.1 if name in PLACES else 0.3)
        await pilot.pause(2.0)
        picture = app.export_screenshot(title="sinergym-tui", simplify=True)
    # The letters come from the reader's machine, not from a server.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    for shown, file in [*DRAWN.items(), *((place_, place_) for place_ in PLACES)]:
        target = Path(__file__).with_name(f"{file}.svg")
        target.write_text(asyncio.run(draw(shown)), encoding="utf-8")
