"""Run all benchmarks, or those named, as in `python -m benchmarks startup fleet`."""

import sys

from benchmarks import console, fleet, startup, thousand, tracking, training

PARTS = {
    "startup": startup.main,
    "fleet": fleet.main,
    "console": console.main,
    "thousand": thousand.main,
    "training": training.main,
    "tracking": tracking.main,
}


def main() -> None:
    """Print every figure next to its baseline and its limit; exit 1 where a limit is broken."""
    names = sys.argv[1:] or list(PARTS)
    broken = [figure for name in names for figure in PARTS[name]() if not figure.holds]
    for figure in broken:
        print(f"breaks its limit: {figure.what}", file=sys.stderr)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
