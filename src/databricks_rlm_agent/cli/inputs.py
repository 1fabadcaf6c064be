"""Inputs of a task: what is at a path is asked of the Volume, what lies on this machine is brought there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from databricks_rlm_agent.domain.inputs import MAX_TEXT_CHARS, Given, Handle, upload_path
from databricks_rlm_agent.domain.text import storable
from databricks_rlm_agent.errors import Forbidden, UsageError
from databricks_rlm_agent.remote.volumes import WorkspaceVolume

_MAX_BYTES = 5 << 30  # of one request of the Files API


@dataclass(frozen=True, kw_only=True)
class Supply:
    """The inputs of one run. ``handles`` asks and checks; only ``send`` changes anything.

    A crash after ``send`` leaves files without a run, which the same command with the same run id replaces.
    """

    volume: WorkspaceVolume
    run_dir: str
    given: Sequence[Given]

    def handles(self) -> dict[str, Handle]:
        """The handle of each input; raise UsageError for a path or file that is not there."""
        return {given.name: self._handle(given) for given in self.given}

    def send(self) -> None:
        """Bring files of this machine and long texts into the run's folder."""
        for given in self.given:
            path = self._destination(given)
            if path and given.kind == "local":
                self.volume.upload(path, _local(given), overwrite=True)
            elif path:
                self.volume.put(path, given.value.encode(), overwrite=True)

    def _handle(self, given: Given) -> Handle:
        path = self._destination(given)
        if path:
            return {"kind": "file", "path": path}
        if given.kind == "table":
            return {"kind": "table", "name": given.value}
        if given.kind == "path":
            return {"kind": self._kind(given), "path": given.value.rstrip("/")}
        return {"kind": "text", "text": given.value}

    def _destination(self, given: Given) -> str | None:
        """Where an input is brought to; None for one that is not."""
        if given.kind == "local":
            return upload_path(self.run_dir, given.name, _local(given).name)
        if given.kind == "text" and len(given.value) > MAX_TEXT_CHARS:
            if storable(given.value) != given.value:
                raise UsageError(f"--input {given.name} is not valid UTF-8.", fix="Check how it was typed.")
            return upload_path(self.run_dir, given.name, "input.txt")
        return None

    def _kind(self, given: Given) -> str:
        wanted = "folder" if given.value.endswith("/") else None
        try:
            found = self.volume.look(given.value.rstrip("/"))
        except Forbidden:  # Job B has an identity of its own, which may read what ours may not
            return wanted or "file"
        if found is None:
            raise UsageError(
                f"--input {given.name}: there is nothing at {given.value}.",
                fix="Check the path; a file of this machine is given as NAME=@FILE.",
            )
        if wanted and not found.is_directory:
            raise UsageError(
                f"--input {given.name}: {given.value} is a file.", fix="Leave out the last slash."
            )
        return "folder" if found.is_directory else "file"


def _local(given: Given) -> Path:
    """The file that an input names; raise UsageError if it cannot be sent."""
    path = Path(given.value).expanduser()
    try:
        stat = path.stat()
        if S_ISREG(stat.st_mode):  # not a pipe: a request may have to be sent again
            path.open("rb").close()
            reason = "it has more than 5 GiB" if stat.st_size > _MAX_BYTES else None
        else:
            reason = "it is not a plain file"
    except (OSError, ValueError) as error:  # the latter for a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
    if reason is None:
        return path
    raise UsageError(
        f"--input {given.name}: {given.value[:200]!r} cannot be sent: {reason}.",
        fix="Give a file of this machine after the @; a folder belongs in a Volume.",
    )
