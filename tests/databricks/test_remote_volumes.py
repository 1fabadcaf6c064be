from __future__ import annotations

import resource
from pathlib import Path

import pytest
from remote_rig import VOLUME, Clients

from databricks_rlm_agent.databricks.services import WorkspaceVolume
from databricks_rlm_agent.errors import AlreadyExists, NotFound


@pytest.fixture
def volume(clients: Clients) -> WorkspaceVolume:
    return WorkspaceVolume(clients.workspace)


def test_what_is_at_a_path(volume: WorkspaceVolume) -> None:
    volume.put(f"{VOLUME}/look/größe 1.txt", b"12345", overwrite=True)
    file = volume.look(f"{VOLUME}/look/größe 1.txt")
    assert file is not None
    assert (file.size, file.is_directory) == (5, False)
    folder = volume.look(f"{VOLUME}/look")
    assert folder is not None
    assert folder.is_directory
    assert volume.look(f"{VOLUME}/look/none") is None
    assert volume.look(f"{VOLUME}/none/none") is None
    assert volume.look("/Volumes/main/nowhere/files/x") is None


def test_a_listing_can_be_cut_off(volume: WorkspaceVolume) -> None:
    for n in range(5):
        volume.put(f"{VOLUME}/five/{n}", b"x", overwrite=True)
    assert len(volume.list(f"{VOLUME}/five", limit=3)) == 3
    assert len(volume.list(f"{VOLUME}/five", limit=9)) == len(volume.list(f"{VOLUME}/five")) == 5


def test_a_file_of_this_machine_is_sent_as_it_is(volume: WorkspaceVolume, tmp_path: Path) -> None:
    source = tmp_path / "big.bin"
    with source.open("wb") as file:
        for n in range(60):
            file.write(bytes([n]) * (1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    volume.upload(f"{VOLUME}/new/folder/big.bin", source, overwrite=False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 * 1024  # KiB: it was streamed
    found = volume.look(f"{VOLUME}/new/folder/big.bin")
    assert found is not None
    assert found.size == 60 << 20
    assert volume.get(f"{VOLUME}/new/folder/big.bin", offset=(59 << 20) - 1, length=2) == b"\x3a\x3b"
    with pytest.raises(AlreadyExists):
        volume.upload(f"{VOLUME}/new/folder/big.bin", source, overwrite=False)
    source.write_bytes(b"")
    volume.upload(f"{VOLUME}/new/folder/big.bin", source, overwrite=True)
    assert volume.get(f"{VOLUME}/new/folder/big.bin") == b""
    with pytest.raises(NotFound):
        volume.upload("/Volumes/main/nowhere/files/x", source, overwrite=True)
