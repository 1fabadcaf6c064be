"""The folders below a workspace's root, paths within them, and the lock against a second server."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from pathlib import Path
from typing import BinaryIO, TextIO

from local_workspace.errors import ApiError, WorkspaceError, invalid


class Layout:
    """The folders of one workspace. `root` is absolute and has no symbolic link in it."""

    def __init__(self, *, root: Path) -> None:
        self.root = root
        self.volumes = root / "Volumes"
        self.workspace = root / "Workspace"  # workspace files
        self.dbfs = root / "dbfs"  # the root of DBFS, but for its `/Volumes`
        self.private = root / ".workspace"  # state that only the server reads; mode 0700
        self.runs = self.private / "runs"  # a folder per task run: its working folder and its log
        self.environments = self.private / "environments"  # with the libraries of jobs
        # Bodies that are still arriving: on the file system of the volumes, so that a rename is atomic.
        self.uploads = self.private / "uploads"
        self.stage = self.private / "stage"  # files that PUT has brought to `stage://tmp/<user>/…`
        self.server_file = self.private / "server.json"  # describes the server that runs now

    def create(self) -> None:
        """Make the folders. Raises WorkspaceError when the root cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.private.mkdir(mode=0o700, exist_ok=True)
            self.private.chmod(0o700)
            new = (self.root / "tables", self.dbfs / "FileStore", self.dbfs / "tmp")  # as on Databricks
            for folder in (self.volumes, self.workspace, self.runs, self.uploads, self.stage, *new):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkspaceError(
                f"the workspace folder {self.root} cannot be used ({error.strerror}): choose another --root"
            ) from error

    def token(self) -> str:
        """The personal access token: made once, then the same over restarts.

        Raises WorkspaceError when the file holds none: a new one would lock out whoever has the old one.
        """
        import secrets

        path = self.private / "token"
        if not path.exists():
            write_private(path, "dapi" + secrets.token_hex(16))
        token = path.read_bytes().strip().decode("ascii", "replace")
        if not re.fullmatch(r"[!-~]{8,200}", token):
            found = "is empty" if not token else "holds no token (8 to 200 printable ASCII characters)"
            raise WorkspaceError(
                f"{path} {found}: put the token there that your clients use, or delete the file, and a new "
                "token is made at the next start"
            )
        return token

    def clear_uploads(self) -> None:
        """Forget what a killed server left: bodies half written, and its engine's socket."""
        for leftover in (*self.uploads.iterdir(), *self.private.glob("sail-*.sock")):
            leftover.unlink(missing_ok=True)

    def write_server_file(self, text: str) -> None:
        """Publish the running server's description."""
        write_private(self.server_file, text)

    def lock(self) -> TextIO:
        """Hold the workspace until the returned file is closed. Raises WorkspaceError when another does."""
        file = (self.private / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise WorkspaceError(
                f"another local workspace already serves {self.root} (see {self.server_file}): "
                "use that one, stop it, or choose another --root"
            ) from None
        return file

    def resolve(self, path: str) -> Path:
        """The local file behind `/Volumes/…`, `/Workspace/…`, `dbfs:/…`, or an absolute path below the root.

        Raises ApiError for anything that is or leads outside.
        """
        plain = path.removeprefix("dbfs:").removeprefix("file:")
        if plain.startswith("/Volumes/"):
            return self.in_volumes(plain.removeprefix("/Volumes/"))
        for prefix, folder in (("/Workspace/", self.workspace), ("/dbfs/", self.dbfs)):
            if plain.startswith(prefix):
                return inside(folder, plain.removeprefix(prefix))
        if path.startswith("dbfs:/"):
            return inside(self.dbfs, plain)
        if plain.startswith(f"{self.root}/"):
            return inside(self.root, plain.removeprefix(f"{self.root}/"))
        raise invalid(
            f"Path {path!r} is not in the workspace: use /Volumes/…, /Workspace/… or a path below its root"
        )

    def in_volumes(self, relative: str) -> Path:
        """The local file of a path below `/Volumes`; names of objects are the same in capitals."""
        parts = relative.strip("/").split("/")
        return inside(self.volumes, "/".join([*(part.lower() for part in parts[:3]), *parts[3:]]))


def make_folders(path: Path, taken: ApiError) -> None:
    """Make a folder and its parents. Raises `taken` where one of them is a file."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise taken from None


def remove(path: Path, *, recursive: bool, full: ApiError) -> None:
    """Remove a file or folder. Raises `full` for a folder with entries, unless `recursive`."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif any(path.iterdir()) and not recursive:
        raise full
    else:
        shutil.rmtree(path)


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all; mode 0600."""
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave an empty file under the name
    temporary.replace(path)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError where there is none, ApiError (400) for anything else:
    to open a pipe that a job left would wait for its writer, and keep one of the server's threads.
    """
    refused = invalid(f"{path.name} is not a regular file: it is a link, a pipe or a device")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # of a link, of a socket
            raise refused from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refused
    return os.fdopen(descriptor, "rb")


def inside(folder: Path, relative: str) -> Path:
    """`folder/relative`, checked to stay below `folder` even through symbolic links.

    Raises ApiError: 400 for empty, `.` or `..` segments, 403 for a link that leads out.
    """
    parts = relative.strip("/").split("/") if relative.strip("/") else []
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise invalid(f"Invalid path: {relative!r} has an empty, '.' or '..' segment")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ApiError(403, "PERMISSION_DENIED", f"Path {relative!r} leads out of the workspace")
    return path
