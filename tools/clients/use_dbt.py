"""dbt-databricks: a project is built twice in `main`, its tests run, its documents generated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from checks import HOST, HTTP_PATH, TOKEN, Checks

check = Checks()
FOLDER = Path(os.environ["CLIENT_FOLDER"]) / "project"
# JSON is YAML too.
PROFILE = {
    "clients": {
        "target": "local",
        "outputs": {
            "local": {
                "type": "databricks",
                "host": HOST,
                "http_path": HTTP_PATH,
                "token": TOKEN,
                "catalog": "main",
                "schema": "dbt_first_run",
                "threads": 2,
                # By itself the connector knows no other port than 443.
                "connection_parameters": {"_connection_uri": HOST + HTTP_PATH},
            }
        },
    }
}
PROJECT = {
    "name": "clients",
    "version": "1.0",
    "profile": "clients",
    "model-paths": ["models"],
    "seed-paths": ["seeds"],
    "snapshot-paths": ["snapshots"],
    "test-paths": ["tests"],
    "flags": {"send_anonymous_usage_stats": False},
}
SOURCE = "select id, name, amount, cast('2024-01-01' as date) as day from {{ ref('items') }}"
NEWER = "{% if is_incremental() %} where id > 1 {% endif %}"


def incremental(strategy: str, **more: str) -> str:
    options = {"materialized": "incremental", "incremental_strategy": strategy, **more}
    written = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return "{{ config(" + written + ") }}\n" + f"{SOURCE} {NEWER}"


FILES = {
    "dbt_project.yml": json.dumps(PROJECT),
    "profiles.yml": json.dumps(PROFILE),
    "seeds/items.csv": "id,name,amount\n1,a,1.50\n2,b,2.50\n3,c,\n",
    "models/a_view.sql": "{{ config(materialized='view') }}\n" + SOURCE,
    "models/a_table.sql": "{{ config(materialized='table') }}\nselect * from {{ ref('a_view') }}",
    "models/partitioned.sql": "{{ config(materialized='table', partition_by=['id']) }}\n" + SOURCE,
    "models/clustered.sql": "{{ config(materialized='table', liquid_clustered_by=['id']) }}\n" + SOURCE,
    "models/ephemeral_one.sql": "{{ config(materialized='ephemeral') }}\n" + SOURCE,
    "models/on_ephemeral.sql": "select count(*) as n from {{ ref('ephemeral_one') }}",
    "models/inc_append.sql": incremental("append"),
    "models/inc_merge.sql": incremental("merge", unique_key="id"),
    "models/inc_delete_insert.sql": incremental("delete+insert", unique_key="id"),
    "models/inc_overwrite.sql": incremental("insert_overwrite", partition_by="id"),
    "models/inc_replace_where.sql": incremental("replace_where", incremental_predicates="id > 1"),
    "models/inc_microbatch.sql": "{{ config(materialized='incremental', incremental_strategy='microbatch', "
    "event_time='day', batch_size='day', begin='2024-01-01', lookback=0, full_refresh=none) }}\n"
    "select * from {{ ref('a_table') }}",
    "models/schema.yml": """
version: 2
models:
  - name: a_table
    description: A table
    config: {event_time: day, persist_docs: {relation: true, columns: true}}
    columns:
      - name: id
        description: The key
        data_tests: [unique, not_null]
      - name: name
        data_tests:
          - accepted_values: {arguments: {values: [a, b, c]}}
  - name: inc_merge
    columns:
      - name: id
        data_tests:
          - unique
          - relationships: {arguments: {to: ref('a_table'), field: id}}
""",
    "snapshots/items_snapshot.yml": """
snapshots:
  - name: items_snapshot
    relation: ref('a_table')
    config: {unique_key: id, strategy: check, check_cols: [name, amount]}
""",
    "tests/three_rows.sql": "select * from (select count(*) as n from {{ ref('a_table') }}) where n != 3",
}


def write_project() -> None:
    for name, text in FILES.items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def dbt(times: str, *arguments: str) -> None:
    """Run a command of dbt, and note each of its results as a check (of docs: none, they are in a file)."""
    for left in (FOLDER / "target").glob("run_results.json"):
        left.unlink()
    command = [str(Path(sys.executable).with_name("dbt")), "--no-use-colors", *arguments]
    environ = {**os.environ, "DBT_PROFILES_DIR": str(FOLDER), "DBT_PROJECT_DIR": str(FOLDER)}
    done = subprocess.run(
        command, cwd=FOLDER, env=environ, stdout=subprocess.PIPE, text=True, timeout=900, check=False
    )
    print(done.stdout[-12000:])
    results = FOLDER / "target" / "run_results.json"
    if arguments[0] == "docs" and done.returncode == 0:
        return
    if not results.exists():
        check.add(f"{' '.join(arguments)} {times}", f"exit code {done.returncode}: {done.stdout[-300:]}")
        return
    for item in json.loads(results.read_text())["results"]:
        good = item["status"] in {"success", "pass"}
        problem = "" if good else f"{item['status']}: {item.get('message')}"
        check.add(f"{arguments[0]} {item['unique_id'].partition('.')[2]} {times}", problem)


write_project()
for once in ("first", "again"):
    dbt(once, "seed")
    dbt(once, "run", "--event-time-start", "2024-01-01", "--event-time-end", "2024-01-03")
    dbt(once, "snapshot")
    dbt(once, "test")
dbt("", "docs", "generate")
catalog = FOLDER / "target" / "catalog.json"
found = json.loads(catalog.read_text()) if catalog.exists() else {"nodes": {}, "errors": "no catalog.json"}
missing = {"items", "a_view", "a_table", "inc_merge"} - {key.rpartition(".")[2] for key in found["nodes"]}
check.add("docs generate", f"not in the catalog: {sorted(missing)}; {found['errors']}" if missing else "")
check.finish()
