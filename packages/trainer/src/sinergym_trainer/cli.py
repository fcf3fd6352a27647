"""`sinergym-train` and `sinergym-eval`: parse, call `train` or `evaluate`, exit code.

`DRL_battery.py` and `python -m sinergym_trainer` are the same as `sinergym-train`.

Exit codes: 0 done; 1 failed; 2 bad input, nothing was started; 128 + n ended by signal n (143 for
SIGTERM) with the results so far kept.
"""

import contextlib
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from cyclopts import App, CycloptsError

from sinergym_trainer.errors import EnergyPlusFailed, InvalidOptions, TrainerError
from sinergym_trainer.options import EvalOptions, Options
from sinergym_trainer.options.configuration import Configuration


def train_app(configuration: Configuration) -> App:
    """The command `sinergym-train`, with values from environment and file beside its flags."""
    app = App(
        name="sinergym-train",
        help="Train an agent of Stable-Baselines3 in a Sinergym environment.",
        version=lambda: version("sinergym-trainer"),
        config=configuration,
    )
    app.default(_train)
    app.command(_sync, name="sync")
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `sinergym-train` and exit: `SystemExit` carries the exit code."""
    configuration = Configuration()
    run_app(train_app(configuration), arguments, explain=configuration.explain)


def evaluate_main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `sinergym-eval` and exit: `SystemExit` carries the exit code."""
    app = App(
        name="sinergym-eval",
        help="Run episodes of a trained model, or of a baseline, and show what they gave.",
        version=lambda: version("sinergym-trainer"),
    )
    app.default(_evaluate)
    run_app(app, arguments)


def run_app(
    app: App,
    arguments: Sequence[str] | None,
    *,
    explain: Callable[[InvalidOptions], str] = str,
) -> NoReturn:
    """Run a command and exit, with each failure as its line on standard error.

    Args:
        app: the command; what it returns is the exit code.
        arguments: its words, by default the process's own.
        explain: makes the line for bad input.
    """
    name = app.name[0]
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        sys.exit(_fail(name, _joined(str(error)), InvalidOptions.exit_code))
    except InvalidOptions as error:
        sys.exit(_fail(name, _joined(explain(error)), error.exit_code))
    except EnergyPlusFailed as error:
        _end_at_once(_fail(name, str(error), error.exit_code))
    except TrainerError as error:
        sys.exit(_fail(name, str(error), error.exit_code))
    except KeyboardInterrupt:
        sys.exit(_fail(name, "interrupted", 130))
    except Exception as error:
        traceback.print_exc()
        sys.exit(_fail(name, f"{type(error).__name__}: {error}", 1))
    sys.exit(code if isinstance(code, int) else 0)


def _train(options: Options) -> int:
    from sinergym_trainer.training import train

    result = train(options)
    return 128 + result.stopped_by if result.stopped_by else 0


def _sync(folder: Path, /, *, tracking_uri: str | None = None) -> None:
    """Send MLflow the metrics that a training could not send.

    Args:
        folder: output folder of the training, or one above several.
        tracking_uri: MLflow's server: default MLFLOW_TRACKING_URI.
    """
    from sinergym_trainer.tracking import sync

    if not folder.is_dir():
        raise InvalidOptions(f"{folder} is not a folder")
    print(f"sinergym-train: sent {sync(folder, tracking_uri)} metrics", flush=True)


def _evaluate(options: EvalOptions) -> int:
    from sinergym_trainer.evaluation.evaluating import evaluate

    report = evaluate(options)
    return 128 + report.stopped_by if report.stopped_by else 0


def _fail(name: str, message: str, code: int) -> int:
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    return code


def _end_at_once(code: int) -> NoReturn:
    """End the process and its children without waiting.

    An EnergyPlus that hangs does so in a thread that nothing can end, here or in the process of
    an environment, and for which a normal exit would wait for ever.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def _joined(text: str) -> str:
    return " ".join(text.split())


app = train_app(Configuration())
"""The command `sinergym-train` with the process's environment."""
