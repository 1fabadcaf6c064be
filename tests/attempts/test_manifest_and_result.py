from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import manifest, request, result

from databricks_rlm_agent.attempts.manifest import Manifest
from databricks_rlm_agent.attempts.records import result_row
from databricks_rlm_agent.attempts.result import Result, Status, digest, is_long
from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.runs.run import AttemptKey
from executor_harness.protocol import Artifact

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEY = AttemptKey(run_id="r1", iter_n=2, attempt=1)


def mutations(document: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A valid document with one thing wrong or strange, as bytes."""

    def changed(path: tuple[str, ...], value: Any, drop: bool) -> bytes:
        copy = json.loads(json.dumps(document))
        at = copy
        for name in path[:-1]:
            at = at[name]
        if drop:
            del at[path[-1]]
        else:
            at[path[-1]] = value
        return json.dumps(copy).encode()

    paths = [(name,) for name in document]
    paths += [(name, inner) for name, value in document.items() if isinstance(value, dict) for inner in value]
    return st.builds(changed, st.sampled_from(paths), JSON, st.booleans())


GARBAGE = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"", b"{}", b"null", b"[" * 5_000, b'{"run_id": "\\ud800"}', b"\xef\xbb\xbf{}"]),
)


@given(GARBAGE)
def test_garbage_is_no_manifest(content: bytes) -> None:
    with pytest.raises(InvalidData, match="manifest does not parse"):
        Manifest.parse(content, where="here")


@given(GARBAGE)
def test_garbage_is_no_result(content: bytes) -> None:
    with pytest.raises(InvalidData, match="result does not parse"):
        Result.parse(content, where="here")


def test_a_changed_manifest_parses_or_is_invalid_data() -> None:
    @given(mutations(manifest()))
    def check(content: bytes) -> None:
        try:
            parsed = Manifest.parse(content, where="here")
        except InvalidData:
            return
        assert Manifest.parse(parsed.to_bytes(), where="here").key == parsed.key

    check()


def test_a_changed_result_parses_or_is_invalid_data_and_is_digested_within_bounds() -> None:
    @given(mutations(result()))
    def check(content: bytes) -> None:
        try:
            parsed = Result.parse(content, where="here")
        except InvalidData:
            return
        assert isinstance(parsed.status, Status)
        digest(parsed, purpose="x")
        result_row(parsed, databricks_run_id=1, run_url=None)

    check()


def test_a_manifest_comes_back_the_same_to_the_byte() -> None:
    content = Manifest(
        request=request(inputs={"ü": {"kind": "text", "text": "…"}}), submit_payload={}
    ).to_bytes()
    parsed = Manifest.parse(content, where="here")
    assert parsed.to_bytes() == content
    assert parsed.key == KEY


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "r2"},
        {"iter_n": 3},
        {"attempt": 2},
        {"purpose": "other"},
        {"timeout_s": 61},
        {"inputs": {"a": {"kind": "text", "text": "1"}}},
        {"artifact": Artifact(path="/Volumes/a/b/c/entrypoint.py", sha256="1" * 64, size=3)},
    ],
    ids=str,
)
def test_the_request_hash_covers_everything(change: dict[str, Any]) -> None:
    assert request(**change).sha256() != request().sha256()
    assert request().sha256() == request().sha256()


def test_bad_versions_and_ids_are_refused() -> None:
    for change in (
        {"schema_version": 2},
        {"run_id": "../x"},
        {"run_id": "a\n"},
        {"iter_n": 0},
        {"status": "DONE"},
    ):
        with pytest.raises(InvalidData):
            Result.parse(json.dumps(result() | change).encode(), where="here")


def test_times_need_a_zone() -> None:
    with pytest.raises(InvalidData):
        Result.parse(json.dumps(result() | {"started_at": "2026-01-01T00:00:00"}).encode(), where="here")


def test_seconds_come_from_the_duration_else_from_the_times() -> None:
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)
    base = Result(run_id="r1", iter_n=1, attempt=1, status=Status.FAILED)
    assert base.seconds is None
    assert base.model_copy(update={"started_at": start, "finished_at": end}).seconds == 2.0
    assert base.model_copy(update={"duration_s": 1.5, "started_at": start, "finished_at": end}).seconds == 1.5


def test_a_result_without_a_report_says_who_concluded_it() -> None:
    found = Result.without_report(KEY, status=Status.LOST, error_type="X", error_summary="y")
    assert (found.key, found.reported_by) == (KEY, "controller")
    row = result_row(found, databricks_run_id=7, run_url="u")
    assert (row.status, row.reported_by, row.databricks_run_id, row.metrics) == (
        "LOST",
        "controller",
        7,
        "{}",
    )


@given(st.integers(0, 100_000), st.integers(1, 40), st.sampled_from(Status))
def test_the_digest_is_bounded_whatever_the_program_did(size: int, many: int, status: Status) -> None:
    text = "x" * size
    stream = {"bytes": size, "head": text, "tail": "y" * size, "path": "/Volumes/" + text}
    found = Result.model_validate(
        result()
        | {"status": status, "error_type": text or None, "error_summary": text, "value": [text] * many}
        | {"metrics": {f"m{i}{text}": i for i in range(many)}, "log": [text] * many}
        | {"stdout": stream, "stderr": stream}
    )
    delta = digest(found, purpose=text)
    assert len(delta.digest) < 8_000
    assert delta.digest.startswith(f"Iteration 2, attempt 1: {status}")
    assert bool(delta.failed_approaches) == (status is not Status.SUCCESS)
    assert bool(delta.decisions) == (status is Status.SUCCESS)
    assert is_long(found) == (2 * size > 6_000)


def test_the_digest_shows_the_reason_even_after_a_long_purpose() -> None:
    failed = Result(
        run_id="r1",
        iter_n=2,
        attempt=1,
        status=Status.FAILED,
        error_type="KeyError",
        error_summary="'dep_tme'",
    )
    delta = digest(failed, purpose="p" * 5_000)
    assert "KeyError: 'dep_tme'" in delta.digest
    assert delta.failed_approaches[0].text.endswith("failed: KeyError: 'dep_tme'")
    assert len(delta.failed_approaches[0].text) < 300
