"""The terminal's input, also where bytes come that are no text."""

from textual.drivers.linux_driver import LinuxDriver

__all__ = ["TolerantDriver"]


class TolerantDriver(LinuxDriver):
    """Textual's driver ends the app at the first byte that isn't UTF-8; this one drops it.

    Such bytes come with a paste from a program in another encoding, or from a bad line.
    """

    def run_input_thread(self) -> None:
        """Read on after what can't be read: it is dropped with what came in the same moment."""
        while not self.exit_event.is_set():
            try:
                super().run_input_thread()
            except UnicodeDecodeError:
                continue
