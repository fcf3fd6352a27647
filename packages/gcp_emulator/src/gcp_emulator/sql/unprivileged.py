"""Run a command as somebody other than root: PostgreSQL refuses to be run by it.

A script of its own, run with ``python -IS``, as only a process with one thread may enter a new
user namespace (unshare(2)); it becomes the command::

    unprivileged.py same|namespace|nobody COMMAND ARGUMENT...

``namespace``: root becomes an ordinary user in a user namespace of its own, whose files are
root's outside of it (user_namespaces(7)). ``nobody``: really another user. The command gets
SIGINT when whoever started it is gone (prctl(2), PR_SET_PDEATHSIG): PostgreSQL's fast shutdown.
"""

import contextlib
import ctypes  # now: the other user may not be allowed to read it
import os
import pwd
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main(how: str, command: list[str]) -> None:
    """Become the command; exit code 126 when that can't be."""
    parent = os.getppid()
    try:
        nobody = pwd.getpwnam("nobody")
        if how == "namespace":
            _enter_namespace(nobody)
        elif how == "nobody":
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
        _end_with(parent)
        os.execv(command[0], command)  # noqa: S606 (it is the server's own program)
    except (OSError, KeyError) as error:
        sys.stderr.write(f"{command[0]} can't be run as an ordinary user: {error}\n")
        sys.exit(126)


def _enter_namespace(user: pwd.struct_passwd) -> None:
    outside = os.geteuid(), os.getegid()
    os.unshare(os.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user.pw_uid} {outside[0]} 1")
    Path("/proc/self/gid_map").write_text(f"{user.pw_gid} {outside[1]} 1")


def _end_with(parent: int) -> None:
    """Ask for SIGINT at the parent's end; after the change of user, which would undo it."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(126)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
