"""TensorBoard: where event files go, what writes them, and each variable's scalars.

`destination` is plain and quick to import. `BoardWriter` and `BoardCallback` extend classes of
Stable-Baselines3, which takes seconds to import: they are loaded when they are first asked for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinergym_trainer.errors import InvalidOptions

if TYPE_CHECKING:
    from sinergym_trainer.board.events import BoardCallback, BoardWriter

__all__ = ["BoardCallback", "BoardWriter", "Destination", "destination"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a run's event files are written, and where they are synced to.

    Events are always written to a local folder: TensorBoard's writer loses all but the last event
    when it appends to an object of Cloud Storage.
    """

    folder: Path
    bucket: str | None = None
    """The bucket that the folder is synced to, or None for nowhere."""
    prefix: str = ""
    """The folder's place in the bucket, without slashes at its ends."""


def destination(tensorboard: str, *, output: Path, name: str) -> Destination:
    """Read what `--tensorboard` says.

    A relative path means `tensorboard/` of the output folder, an absolute one that folder's
    `<name>`, and `gs://BUCKET/PATH` the output folder's `tensorboard/`, synced to `PATH/<name>` of
    the bucket. Slashes at the end do not matter. Nothing is created.

    Raises:
        InvalidOptions: it is none of these.
    """
    text = tensorboard.strip()
    if text.startswith("gs://"):
        bucket, _, path = text.removeprefix("gs://").partition("/")
        if bucket:
            parts = [part for part in (*path.split("/"), name) if part]
            return Destination(
                folder=output / "tensorboard", bucket=bucket, prefix="/".join(parts)
            )
    if not text or "://" in text or text.startswith("gs:/"):
        raise InvalidOptions(f"--tensorboard {tensorboard!r}: write a path or gs://BUCKET/PATH")
    path_ = Path(text).expanduser()
    if path_.is_absolute():
        return Destination(folder=path_ / name)
    return Destination(folder=output / "tensorboard")


def __getattr__(name: str) -> Any:
    if name in ("BoardCallback", "BoardWriter"):
        from sinergym_trainer.board import events

        return getattr(events, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
