"""Run a command that sees a workspace's folders as `/Volumes`, `/Workspace` and `/dbfs`.

`python -I -S mounts.py SCRATCH VOLUMES WORKSPACE DBFS COMMAND …`: in a mount namespace of its own, which
needs no rights where the system lets users make them, the command gets a root folder with everything that is
in `/` and these besides. `SCRATCH` is an empty folder of its own. The command replaces this process.
"""

from __future__ import annotations

import ctypes
import os
import sys

# From <linux/sched.h> and <sys/mount.h>.
_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_BIND, _REC, _PRIVATE, _UNBINDABLE = 4096, 16384, 1 << 18, 1 << 17
REFUSED = 125  # the exit code where the system allows no such namespace


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: bytes | None, flags: int) -> None:
    _call("mount", os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), None)


def _separate() -> None:
    """Enter a mount namespace; as a user without the right to, within a user namespace of one's own."""
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _NEWNS)
    except OSError:
        _call("unshare", _NEWNS | _NEWUSER)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib would triple the start
                file.write(text)


def enter(scratch: str, folders: dict[str, str]) -> None:
    """Make a root folder in `scratch` out of `/` and `folders`, by name, and go there. Raises OSError."""
    here = os.getcwd()  # noqa: PTH109 - as above
    _separate()
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("tmpfs", scratch, b"tmpfs", 0)
    _mount("none", scratch, None, _UNBINDABLE)  # else it would appear once more within itself
    for entry in os.scandir("/"):
        target = f"{scratch}/{entry.name}"
        if entry.name in folders:
            continue
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)  # noqa: PTH115, PTH211 - as above
        elif entry.is_dir():
            os.mkdir(target)  # noqa: PTH102 - as above
            _mount(entry.path, target, None, _BIND | _REC)
    for name, folder in folders.items():
        os.mkdir(f"{scratch}/{name}")  # noqa: PTH102 - as above
        _mount(folder, f"{scratch}/{name}", None, _BIND | _REC)
    os.chroot(scratch)
    os.chdir(here)


def main(scratch: str, volumes: str, workspace: str, dbfs: str, *command: str) -> None:
    """Enter the namespace and become the command."""
    try:
        enter(scratch, {"Volumes": volumes, "Workspace": workspace, "dbfs": dbfs})
    except OSError as error:
        print(f"/Volumes cannot be mounted here: {error}", file=sys.stderr)  # noqa: T201 - into the run's log
        sys.exit(REFUSED)
    os.execv(command[0], command)  # noqa: S606 - the purpose


if __name__ == "__main__":
    main(*sys.argv[1:])
