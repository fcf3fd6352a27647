"""Draw docs/images/console.svg: the console as it is on the local cloud at this moment.

Launch a sweep there first (`gcloud-ops --local sweep launch examples/quick.yaml`), then, while it
trains: `python docs/images/console.py`.
"""

import asyncio
import re
import sys
from pathlib import Path

from gcloud_ops.local import local_settings
from gcloud_ops.settings import Settings
from sinergym_tui.app import Console
from sinergym_tui.fleet import Fleet

SIZE = (132, 34)
SECONDS = 8.0  # to look, and to read the log


async def draw() -> str:
    """Open the console without a terminal; what it shows of the experiments, as SVG."""
    settings = local_settings(Settings.load())
    app = Console(lambda _tell: Fleet.connect(settings, read_only=True))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(SECONDS)
        await pilot.press("enter")
        await pilot.pause(1.0)
        picture = app.export_screenshot(title="sinergym-tui --local", simplify=True)
    # The letters come from the reader's machine, not from a server.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".svg")
    target.write_text(asyncio.run(draw()), encoding="utf-8")
