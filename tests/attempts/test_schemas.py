from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel
from samples import manifest, result

from databricks_rlm_agent import layout
from databricks_rlm_agent.attempts import manifest as manifests
from databricks_rlm_agent.attempts import result as results
from databricks_rlm_agent.attempts import schemas
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.values import ID_PATTERN
from executor_harness import protocol

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"
COMMAND = "python -m databricks_rlm_agent.attempts.schemas docs/schemas"
SAME = [
    (protocol.Manifest, manifests.Manifest, set()),
    (protocol.Request, manifests.Request, set()),
    (protocol.Artifact, manifests.Artifact, set()),
    # What the harness reports for people and the control plane has no use for.
    (
        protocol.Result,
        results.Result,
        {"databricks_run_id", "artifact_sha256", "harness_version", "python_version"},
    ),
    (protocol.Stream, results.Stream, set()),
    (protocol.ProducedArtifact, results.ProducedArtifact, set()),
    (protocol.ProducedTable, results.ProducedTable, set()),
]


def names(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


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


# What the plan cost is no concern of the executor.
CONTROLLERS_OWN = {"kind", "plan"}


@pytest.mark.parametrize(("ours", "model", "more"), SAME, ids=lambda value: getattr(value, "__name__", ""))
def test_both_sides_of_the_wire_have_the_same_keys(
    ours: type, model: type[BaseModel], more: set[str]
) -> None:
    assert set(get_type_hints(ours)) - more == names(model) - CONTROLLERS_OWN
    if (
        model.__module__ == results.__name__
    ):  # written by the harness, read by us: what we need is always there
        needed = {name for name, field in model.model_fields.items() if field.is_required()}
        assert needed <= ours.__required_keys__  # type: ignore[attr-defined]  # of TypedDict


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
