"""dagster Pipes: a Databricks job reports to the asset that started it, on classic and serverless compute."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import dagster
import dagster_pipes
from checks import VOLUME, Checks
from dagster_databricks import PipesDatabricksClient, PipesDbfsContextInjector, PipesDbfsMessageReader
from dagster_databricks.pipes import PipesDatabricksServerlessClient
from databricks.sdk import WorkspaceClient
from databricks.sdk.service import jobs

check = Checks()
client = WorkspaceClient()
FOLDER = f"{VOLUME}/dagster"
client.files.upload(
    f"{FOLDER}/dagster_pipes.py", io.BytesIO(Path(dagster_pipes.__file__).read_bytes()), overwrite=True
)
HEAD = "from dagster_pipes import *\n"
BODY = """
    pipes.log.info("at work")
    rows = {"raw_value": 7, "type": "int"}
    pipes.report_asset_materialization(metadata={"rows": rows, "extra": pipes.get_extra("a")})
"""
# On classic compute a session is there before the program; here one is made when it is asked for.
CLASSIC = f"""
from databricks.sdk.runtime import spark
spark.version
with open_dagster_pipes(
    context_loader=PipesDbfsContextLoader(), message_writer=PipesDbfsMessageWriter()
) as pipes:{BODY}"""
SERVERLESS = f"""
with open_dagster_pipes(
    context_loader=PipesUnityCatalogVolumesContextLoader(),
    params_loader=PipesCliArgsParamsLoader(),
    message_writer=PipesUnityCatalogVolumesMessageWriter(),
) as pipes:{BODY}"""


def task(name: str, code: str, **fields: Any) -> jobs.SubmitTask:
    client.files.upload(f"{FOLDER}/{name}", io.BytesIO((HEAD + code).encode()), overwrite=True)
    return jobs.SubmitTask.from_dict(
        {"task_key": "pipes", "spark_python_task": {"python_file": f"{FOLDER}/{name}"}, **fields}
    )


def materialized(pipes: Any, submitted: jobs.SubmitTask) -> None:
    @dagster.asset(name="made")
    def made(context) -> Any:  # type: ignore[no-untyped-def] # dagster reads the annotation, which is a text here
        done = pipes.run(task=submitted, context=context, extras={"a": "b"})
        return done.get_materialize_result()

    result = dagster.materialize([made])
    assert result.success
    (event,) = result.asset_materializations_for_node("made")
    assert event.metadata["rows"].value == 7, event.metadata
    assert event.metadata["extra"].value == "b", event.metadata


@check
def pipes_on_classic_compute() -> None:
    pipes = PipesDatabricksClient(
        client=client,
        context_injector=PipesDbfsContextInjector(client=client),
        message_reader=PipesDbfsMessageReader(client=client),
    )
    materialized(
        pipes,
        task("classic.py", CLASSIC, new_cluster={"spark_version": "17.3.x-scala2.13", "num_workers": 0}),
    )


@check
def pipes_on_serverless_compute() -> None:
    pipes = PipesDatabricksServerlessClient(client=client, volume_path=FOLDER)
    materialized(pipes, task("serverless.py", SERVERLESS))


check.finish()
