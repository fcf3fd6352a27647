"""`sinergym-runner`: the entry point of the container, and the way to hand it a command.

Only what is needed at once is imported here: `submit` is called on hundreds of VMs while somebody
waits, so it costs little more than Python's own start. What the runner does is in `supervisor`.
"""

import sys

USAGE = """\
Usage: sinergym-runner
       sinergym-runner submit -- COMMAND...

Without arguments: wait for a command, run it, keep its record, log and outputs in the bucket,
and remove this VM at the end. It is the entry point of the container.

submit: hand COMMAND, a line for /bin/sh, to the runner that waits in this working directory
(several arguments are joined, quoted). Exit codes: 0 accepted, or accepted before; 3 another
command is there already; 4 no runner is waiting here.

Settings come from the VM's metadata; these variables win:
  SINERGYM_BUCKET, SINERGYM_SWEEP, SINERGYM_EXPERIMENT   who this is
  SINERGYM_PATIENCE          seconds to wait for a command (900)
  SINERGYM_METADATA_SECONDS  seconds to wait for the metadata server (20; 2 if the three are set)
  SINERGYM_SYNC_SECONDS      seconds between two uploads of new outputs (15)
  SINERGYM_HEARTBEAT_SECONDS seconds between two records when nothing changes (20)
  SINERGYM_RECORD_SECONDS    seconds between two records at least (1)
  SINERGYM_UPLOAD_MINUTES    minutes to try the last upload (10)
  SINERGYM_SIGNAL_SECONDS    seconds to try the signals of the end (90)
  SINERGYM_LOST_SECONDS      seconds of silence after which one without a VM is lost (300)
  SINERGYM_REMOVAL_SECONDS   seconds to try the removal of the VM (600)
  SINERGYM_KEEP_VM=1         do not remove the VM
  SINERGYM_IMAGE             the image's name, for the record
  SINERGYM_MLFLOW_SECRET     secret with MLflow's user name and password, for the command alone
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command `sinergym-runner`; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        from sinergym_trainer.runner.supervisor import supervise

        return supervise()
    if arguments[0] == "submit":
        return _submit(arguments[1:])
    if arguments[0] in {"--help", "-h"}:
        sys.stdout.write(USAGE)
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"{version('sinergym-trainer')}\n")
        return 0
    sys.stderr.write(f"sinergym-runner: unknown argument {arguments[0]!r}; see --help\n")
    return 2


def _submit(arguments: list[str]) -> int:
    if arguments in (["--help"], ["-h"]):
        sys.stdout.write(USAGE)
        return 0
    words = arguments[1:] if arguments[:1] == ["--"] else arguments
    if len(words) > 1:
        import shlex

        command = shlex.join(words)
    else:
        command = "".join(words)
    if not command.strip():
        sys.stderr.write("sinergym-runner: submit needs a command: submit -- COMMAND\n")
        return 2
    from sinergym_trainer.runner.mailbox import submit

    code, line = submit(command)
    (sys.stderr if code else sys.stdout).write(f"sinergym-runner: {line}\n")
    return code
