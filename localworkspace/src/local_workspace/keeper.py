"""The keeper of a job's process: its parent, and the root folder that it sees.

It is run by the file's path with `python -I -S`, for every job, so it is one file of the standard library.

`keeper.py keep GRACE_SECONDS` is the parent: with the job it ends all that the job started, daemons included.
The command is JSON in the environment: who looks for the job's process by its arguments shall find that. What
it starts is in a session of its own. Standard input is its control: `T` and `K` send SIGTERM and SIGKILL to
the job's group, `X` kills everything at once, and so does its end, when the server has died. It ends as the
job has ended, by the same signal if need be. On Linux the orphans of the job become children of this process,
whatever their environment, group or session.

`keeper.py mount SCRATCH VOLUMES WORKSPACE DBFS COMMAND …` becomes the command, which sees these folders as
`/Volumes`, `/Workspace` and `/dbfs`: in a mount namespace of its own, which needs no rights where the system
lets users make them, it gets a root folder with everything that is in `/` and these besides. `SCRATCH` is an
empty folder of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

# prctl(2), capset(2), unshare(2), mount(2)
_SET_DUMPABLE, _SET_CHILD_SUBREAPER, _CAPBSET_DROP = 4, 36, 24
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_BIND, _REC, _PRIVATE, _UNBINDABLE = 4096, 16384, 1 << 18, 1 << 17
_CAPABILITY_VERSION_3 = 0x20080522
# SYS_PTRACE, SYS_ADMIN and PERFMON: each lets root read the memory and environment of other processes.
_PRYING = (19, 21, 38)
_POLL_S = 0.02
COMMAND = "RLM_LOCAL_COMMAND"
REFUSED = 125  # the exit code where the system allows no mount namespace


def isolate() -> bool:
    """Keep this process, and its children, from the memory and environment of others; return success.

    The keys of whoever started the workspace are there, at least in their shell. A user namespace does it;
    for root it would change which files may be read, so root loses three capabilities instead. Call it before
    there are threads.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc, uid, gid = ctypes.CDLL(None, use_errno=True), os.geteuid(), os.getegid()
    if uid == 0:
        header, sets = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
        if libc.capget(header, sets) != 0:
            return False
        for capability in _PRYING:
            libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
            for kind in range(3):  # effective, permitted, inheritable
                sets[capability // 32 * 3 + kind] &= ~(1 << capability % 32)
        return bool(libc.capset(header, sets) == 0)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        return False
    _map_user(uid, gid)
    return True


def _map_user(uid: int, gid: int) -> None:
    """Be the same user in the user namespace that was just entered."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - a slow import
            file.write(text)


def hide() -> None:
    """Keep others of this user, but not root, from this process's memory, environment and files (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def descendants() -> set[int]:
    """Return the processes below this one, without those that have ended; empty where there is no /proc."""
    parents: dict[int, int] = {}
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - as above
    except OSError:
        return set()
    for name in names:
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                fields = file.read().rpartition(b")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if fields[0] not in {b"Z", b"X"}:
            parents[int(name)] = int(fields[1])
    found, level = set[int](), {os.getpid()}
    while level := {pid for pid, parent in parents.items() if parent in level} - found:
        found |= level
    return found


def _send(pids: set[int], number: int) -> None:
    for pid in pids:
        _quietly(os.kill, pid, number)


def _quietly(function: Callable[[int, int], Any], target: int, number: int) -> None:
    try:  # noqa: SIM105 - contextlib is a slow import
        function(target, number)
    except (ProcessLookupError, PermissionError):
        pass


def _end_all(grace_s: float) -> None:
    """End what is left: SIGTERM, `grace_s` later SIGKILL. With no grace nobody sees the others end."""
    deadline, told = time.monotonic() + grace_s, set[int]()
    while left := descendants():
        if time.monotonic() >= deadline:
            _send(left, signal.SIGSTOP)
            _send(left, signal.SIGKILL)
        else:
            _send(left - told, signal.SIGTERM)
            told |= left
        _reap(0)
        time.sleep(_POLL_S)


def _reap(job: int) -> bool:
    """Take note of children that have ended; return whether the job's own process is one (it is left)."""
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid == job:
                return True
            os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        pass
    return False


def _watch(job: int, woken: int) -> float | None:
    """Wait for the job's end, and do as the control says; return 0.0 when all must end at once."""
    sources = [0, woken]
    while not _reap(job):
        ready = select.select(sources, [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
        if 0 not in ready:
            continue
        said = os.read(0, 64)
        if not said or b"X" in said:
            return 0.0
        _quietly(os.killpg, job, signal.SIGKILL if b"K" in said else signal.SIGTERM)
    return None


def keep(grace_s: float, command: list[str]) -> int:
    """Run a command to its end, and end what it leaves; return its wait status."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    isolate()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    silent = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    python_ignores = [signal.SIGPIPE, signal.SIGXFSZ]
    job = os.posix_spawn(
        command[0], command, os.environ, file_actions=silent, setsid=True, setsigdef=python_ignores
    )
    now = _watch(job, woken)
    if now is not None:
        _end_all(now)
    # Not reaped yet, so its number cannot have become another process's group.
    _quietly(os.killpg, job, signal.SIGKILL)
    status = os.waitpid(job, 0)[1]
    _end_all(grace_s if now is None else now)
    return status


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library. Raises OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: bytes | None, flags: int) -> None:
    _call("mount", os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), None)


def enter(scratch: str, folders: dict[str, str]) -> None:
    """Make a root folder in `scratch` out of `/` and `folders`, by name, and go there. Raises OSError."""
    here, uid, gid = os.getcwd(), os.geteuid(), os.getegid()  # noqa: PTH109 - as above
    try:
        _call("unshare", _CLONE_NEWNS)
    except OSError:  # without the right to, within a user namespace of one's own
        _call("unshare", _CLONE_NEWNS | _CLONE_NEWUSER)
        _map_user(uid, gid)
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


def mount(scratch: str, volumes: str, workspace: str, dbfs: str, *command: str) -> None:
    """Enter the namespace and become the command."""
    try:
        enter(scratch, {"Volumes": volumes, "Workspace": workspace, "dbfs": dbfs})
    except OSError as error:
        print(f"/Volumes cannot be mounted here: {error}", file=sys.stderr)  # noqa: T201 - into the run's log
        sys.exit(REFUSED)
    os.execv(command[0], command)  # noqa: S606 - the purpose


def main(task: str, *arguments: str) -> None:
    """Mount, or keep a job and end as it has ended."""
    if task == "mount":
        mount(*arguments)
    import resource

    status = keep(float(arguments[0]), json.loads(os.environ.pop(COMMAND)))
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL) if os.WTERMSIG(status) != signal.SIGKILL else None
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main(*sys.argv[1:])
