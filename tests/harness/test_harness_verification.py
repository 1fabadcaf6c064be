"""Nothing is run unless it is exactly what was published and submitted; and nothing is run twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness_support import Bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from executor_harness import protocol, verify
from executor_harness.volumes import Volumes, check

PROGRAM = "open(rlm.path('ran'), 'a').write('x')\nrlm.finish(1)\n"


@pytest.mark.parametrize("change", [b"rlm.finish(2)\n", PROGRAM.encode().replace(b"x", b"y"), None])
def test_changed_artifact_is_not_run(bench: Bench, change: bytes | None) -> None:
    bench.publish(PROGRAM)
    path = bench.folder / "entrypoint.py"
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change)
    ended = bench.again()
    assert ended.code == 1
    assert (ended.report["status"], ended.report["error_type"]) == ("FAILED", "ArtifactMismatch")
    assert not (ended.folder / "ran").exists()


def test_changed_manifest_is_not_believed(bench: Bench) -> None:
    request = bench.publish(PROGRAM)
    bench.write_manifest({"schema_version": 1, "request": {**request, "timeout_s": 61}, "submit_payload": {}})
    ended = bench.again()
    assert (ended.code, ended.report["error_type"]) == (1, "ManifestMismatch")
    assert "cannot be trusted to name the table" in ended.err
    assert not (ended.folder / "ran").exists()


@pytest.mark.parametrize(
    ("content", "error_type"),
    [
        (b"{", "ManifestUnreadable"),
        (b"\xff", "ManifestUnreadable"),
        (b"[]", "ManifestUnreadable"),
        (b"[" * 100_000, "ManifestUnreadable"),
        (b'{"schema_version": 2, "request": {}}', "UnsupportedSchema"),
        (b'{"schema_version": true, "request": {}}', "UnsupportedSchema"),
        (b'{"schema_version": 1, "request": {"x": NaN}}', "ManifestUnreadable"),
        (b'{"schema_version": 1}', "ManifestMismatch"),
        (None, "ManifestUnreadable"),
    ],
)
def test_broken_manifests(bench: Bench, content: bytes | None, error_type: str) -> None:
    bench.publish(PROGRAM)
    path = bench.folder / "manifest.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    ended = bench.again()
    assert (ended.code, ended.report["error_type"]) == (1, error_type)
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "change",
    [{"run_id": "other"}, {"iter_n": 2}, {"attempt": 3}, {"output_dir": "/Volumes/main/rlm/work"}],
)
def test_a_request_of_another_attempt_is_not_run(bench: Bench, change: dict[str, Any]) -> None:
    ended = bench.run(PROGRAM, **change)
    assert (ended.code, ended.report["error_type"]) == (1, "ManifestMismatch")
    assert next(iter(change)) in ended.report["error_summary"]


def test_other_task_types_are_refused(bench: Bench) -> None:
    assert bench.run(PROGRAM, task_type="scala").report["error_type"] == "UnsupportedTask"


def test_attempt_2_has_a_folder_of_its_own(bench: Bench) -> None:
    bench.attempt = 2
    ended = bench.run(PROGRAM)
    assert (ended.code, ended.folder.name) == (0, "attempt_2")


def test_second_start_does_not_run_again(bench: Bench) -> None:
    first = bench.run(PROGRAM + "import sys\nsys.exit(9)\n")
    second = bench.again()
    assert (first.code, second.code) == (9, 9)
    assert first.result == second.result
    assert (first.folder / "ran").read_text() == "x"


def test_torn_result_does_not_run_again(bench: Bench) -> None:
    bench.publish(PROGRAM)
    (bench.folder / "result.json").write_text('{"run_id": "r1", "sta')
    ended = bench.again()
    assert (ended.code, ended.report["error_type"]) == (1, "ProcessDied")
    assert not (ended.folder / "ran").exists()


def test_result_of_another_request_is_left_alone(bench: Bench) -> None:
    first = bench.run(PROGRAM)
    other = bench.run(PROGRAM + "#")
    assert (other.code, other.result) == (1, first.result)
    assert "ResultConflict" in other.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run_id": "../x"}, "--run-id"),
        ({"run_id": "R1"}, "--run-id"),
        ({"iter": "0"}, "--iter"),
        ({"iter": "01"}, "--iter"),
        ({"attempt": "-1"}, "--attempt"),
        ({"attempt": "2"}, "not of this attempt"),
        ({"request_sha256": "abc"}, "--request-sha256"),
        ({"manifest": "/tmp/run_r1/iter_1/manifest.json"}, "/Volumes/"),
        ({"manifest": "/Volumes/a/../run_r1/iter_1/manifest.json"}, "'..'"),
        ({"manifest": "/Volumes/ä/run_r1/iter_1/manifest.json"}, "ASCII"),
        ({"colour": "red"}, "unknown argument '--colour'"),
    ],
)
def test_wrong_arguments(bench: Bench, change: dict[str, str], said: str) -> None:
    bench.publish(PROGRAM)
    ended = bench.wait(bench.start(*bench.arguments(**change)))
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert ended.result is None


@pytest.mark.parametrize("argv", [["--run-id"], ["--run-id", "a", "--run-id", "a"], ["x"], []])
def test_arguments_missing_or_twice(argv: list[str]) -> None:
    with pytest.raises(verify.UsageError):
        verify.parse(argv)


def test_databricks_run_id_is_kept_when_the_platform_tells_it(bench: Bench) -> None:
    bench.publish(PROGRAM)
    ended = bench.wait(bench.start(*bench.arguments(databricks_run_id="123456789012345")))
    assert ended.report["databricks_run_id"] == 123456789012345
    assert verify.parse(bench.arguments(databricks_run_id="{{job.run_id}}")).databricks_run_id is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PLACE = "/Volumes/a/b/c/scratchpad/run_r1/iter_1/manifest.json"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(protocol.Request.__annotations__)), json_values) | json_values)
def test_garbage_requests_are_refused_in_words(tmp_path: Path, request_: Any) -> None:
    arguments = verify.Arguments(
        run_id="r1", iter_n=1, attempt=1, manifest=PLACE, request_sha256=protocol.digest(request_)
    )
    volumes = Volumes(root=str(tmp_path))
    volumes.put(PLACE, json.dumps({"schema_version": 1, "request": request_}).encode())
    with pytest.raises(verify.Refused):
        verify.read_request(arguments, volumes)


@pytest.mark.parametrize("place", ["result.json", "stdout.txt"])
def test_nothing_is_written_through_a_link(bench: Bench, place: str) -> None:
    target = bench.root / "elsewhere"
    target.write_text("as it was")
    ended = bench.run(f"import os\nos.symlink({str(target)!r}, rlm.path({place!r}))\nrlm.finish(1)\n")
    assert (ended.code, ended.report["value"]) == (0, 1)
    assert target.read_text() == "as it was"


def test_a_pipe_in_the_place_of_a_result_blocks_nobody(bench: Bench) -> None:
    ended = bench.run("import os\nos.mkfifo(rlm.path('result.json'))\nrlm.finish(1)\n")
    assert (ended.code, ended.report["value"]) == (0, 1)


@given(st.text(max_size=30) | st.none() | st.integers())
def test_only_volume_paths_are_mapped(path: Any) -> None:
    try:
        checked = check(path)
    except ValueError:
        return
    assert checked.startswith("/Volumes/")


def test_mapping_of_paths(tmp_path: Path) -> None:
    volumes = Volumes(root=str(tmp_path))
    assert volumes.local("/Volumes/a/b") == tmp_path / "a" / "b"
    assert volumes.logical(str(tmp_path / "a" / "b")) == "/Volumes/a/b" == volumes.logical("/Volumes/a/b")
    assert volumes.logical("/etc/passwd") is None


def test_digest_is_over_the_canonical_json() -> None:
    assert protocol.canonical_json({"b": 1, "a": "ä"}) == '{"a":"ä","b":1}'
    assert protocol.digest({"b": 1, "a": 2}) == protocol.digest(json.loads('{"a": 2, "b": 1}'))
    with pytest.raises(ValueError):
        protocol.digest({"x": float("nan")})
