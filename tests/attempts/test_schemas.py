from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError
from samples import manifest, request

from databricks_rlm_agent import layout
from databricks_rlm_agent.attempts import manifest as manifests
from databricks_rlm_agent.attempts import result as results
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.values import ID_PATTERN
from executor_harness import protocol
from tools import schemas

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"
COMMAND = "python -m tools.schemas docs/schemas"
# What the harness reports for people and the control plane has no use for.
FOR_PEOPLE = {"databricks_run_id", "artifact_sha256", "harness_version", "python_version"}


def result() -> dict[str, Any]:
    """As the harness writes it."""
    return protocol.plain(
        protocol.Result(
            run_id="r1", iter_n=2, attempt=1, databricks_run_id=None, request_sha256="0" * 64,
            artifact_sha256=None, status=protocol.SUCCESS, exit_code=0, duration_s=1.0, python_version="3.11",
            started_at="2026-01-01T00:00:00.000Z", finished_at="2026-01-01T00:00:01.000Z",
            produced_tables=[protocol.ProducedTable(name="a.b.c")], usage=protocol.Usage(calls=1),
        )
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(schemas.schemas()))
def test_the_checked_in_schemas_are_in_step(name: str) -> None:
    stored = (FOLDER / name).read_text(encoding="utf-8")
    assert stored == schemas.text(schemas.schemas()[name]), f"Regenerate it: {COMMAND}"


def test_nothing_else_lies_there() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(schemas.schemas())


@pytest.mark.parametrize(("name", "document"), [("manifest", manifest()), ("result", result())])
def test_what_we_write_fits_its_schema(name: str, document: dict[str, Any]) -> None:
    schema = schemas.schemas()[f"{name}.schema.json"]
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    validator.validate(document)
    assert not validator.is_valid(document | {"schema_version": 2})
    target = document.get("request", document)
    target["run_id"] = "../x"
    assert not validator.is_valid(document)


def test_writing_is_the_command_of_the_message(tmp_path: Path) -> None:
    schemas.write(tmp_path / "new")
    for path in (tmp_path / "new").iterdir():
        assert json.loads(path.read_text(encoding="utf-8")) == schemas.schemas()[path.name]


def test_the_control_plane_reads_what_the_harness_writes() -> None:
    written = {field.name for field in fields(protocol.Result)}
    assert written - FOR_PEOPLE == set(results.Result.model_fields)
    read = results.Result.parse(json.dumps(result()).encode(), where="x")
    assert (read.status, read.usage) == (results.Status.SUCCESS, protocol.Usage(calls=1))


def test_a_request_has_the_fields_of_the_wire_and_no_others() -> None:
    assert [field.name for field in fields(manifests.Request)] == [f.name for f in fields(protocol.Request)]


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (protocol.Usage, {"calls": -1}),
        (protocol.Usage, {"cost_usd": float("nan")}),
        (protocol.VariablesRef, {"path": "/Volumes/a", "sha256": "ab", "iter_n": 1}),
        (protocol.ChildTask, {"name": "Not A Name", "task": "t"}),
        (protocol.ChildTask, {"name": "a", "task": ""}),
        (manifests.Request, request().to_dict() | {"run_id": "../x"}),
        (manifests.Request, request().to_dict() | {"timeout_s": 0}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_limits_of_the_wire_are_checked(kind: type, document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(document)


def test_a_request_keeps_its_digest_through_json() -> None:
    access = {
        "endpoint": "m", "concurrency": 4, "per_minute": None, "timeout_s": 120, "max_reply_tokens": 10,
        "prices": {"m": {"input_usd": 1, "output_usd": 2.5}}, "calls_table": "a.b.c",
        "allowance": {"calls": 1, "tokens": 2, "cost_usd": 3},
    }  # fmt: skip
    document = request().to_dict() | {"models": access}
    read = TypeAdapter(manifests.Request).validate_json(json.dumps(document))
    assert read.sha256() == protocol.digest(document)
    assert protocol.plain(protocol.read(protocol.Request, document)) == document | {"packages": []}


def test_both_sides_mean_the_same_by_a_name() -> None:
    assert ID_PATTERN.pattern == protocol.ID_PATTERN
    assert get_args(manifests.Manifest.model_fields["schema_version"].annotation) == (
        protocol.SCHEMA_VERSION,
    )
    assert get_args(results.Result.model_fields["schema_version"].annotation) == (protocol.SCHEMA_VERSION,)
    # LOST is what a controller concludes; no executor says it of itself.
    assert set(results.Status) == {*protocol.STATUSES, results.Status.LOST}
    files = ("ENTRYPOINT", "MANIFEST", "RESULT", "STDOUT", "STDERR")
    assert [getattr(layout, name) for name in files] == [getattr(protocol, f"{name}_FILE") for name in files]
    assert results.Result.model_fields["reported_by"].default == protocol.REPORTED_BY


@pytest.mark.parametrize("attempt", [1, 2, 9])
def test_both_sides_look_in_the_same_folder(attempt: int) -> None:
    names = Namespace(catalog="a", schema="b", volume="c")
    expected = f"/Volumes/a/b/c/scratchpad/{protocol.folder_of('r1', 3, attempt)}"
    assert names.attempt_dir("r1", 3, attempt) == expected
