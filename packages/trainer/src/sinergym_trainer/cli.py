"""`sinergym-train`: parse, call `train`, print, exit code.

`DRL_battery.py` and `python -m sinergym_trainer` are the same.

Exit codes: 0 done; 1 failed; 2 bad input, nothing was started; 128 + n ended by signal n (143 for
SIGTERM) with the results so far kept.
"""

import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from cyclopts import App, CycloptsError

from sinergym_trainer.errors import InvalidOptions, TrainerError
from sinergym_trainer.options import Options

app = App(
    name="sinergym-train",
    help="Train an agent of Stable-Baselines3 in a Sinergym environment.",
    version=lambda: version("sinergym-trainer"),
)


@app.default
def _train(options: Options) -> int:
    from sinergym_trainer.training import train

    result = train(options)
    return 128 + result.stopped_by if result.stopped_by else 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: `SystemExit` carries the exit code."""
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> int:
    try:
        code = app(
            list(arguments), exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        return _fail(" ".join(str(error).split()), InvalidOptions.exit_code)
    except TrainerError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        traceback.print_exc()
        return _fail(f"{type(error).__name__}: {error}", 1)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"sinergym-train: {message}", file=sys.stderr, flush=True)
    return code
