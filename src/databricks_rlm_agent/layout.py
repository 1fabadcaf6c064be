"""Where things lie in the Volume (fixed by the design, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

from databricks_rlm_agent.values import check_id, check_name

ENTRYPOINT = "entrypoint.py"
MANIFEST = "manifest.json"
RESULT = "result.json"
STDOUT = "stdout.txt"
STDERR = "stderr.txt"


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """The schema that holds our tables and the Volume that holds our files."""

    catalog: str
    schema: str
    volume: str

    def __post_init__(self) -> None:
        check_name(self.catalog, what="catalog")
        check_name(self.schema, what="schema")
        check_name(self.volume, what="volume")

    @property
    def volume_root(self) -> str:
        """``/Volumes/<catalog>/<schema>/<volume>``."""
        return f"/Volumes/{self.catalog}/{self.schema}/{self.volume}"

    @property
    def codebase_dir(self) -> str:
        """The read-only folder that the harness puts on ``sys.path``."""
        return f"{self.volume_root}/company_codebase"

    @property
    def scratch_schema(self) -> str:
        """The schema of the tables behind variables that are DataFrames."""
        return f"{self.catalog}.{self.schema}_scratch"

    def table(self, name: str) -> str:
        """Full three-level name of one of our tables."""
        return f"{self.catalog}.{self.schema}.{check_name(name, what='table')}"

    def run_dir(self, run_id: str) -> str:
        """Folder of a run."""
        return f"{self.volume_root}/scratchpad/run_{check_id(run_id)}"

    def attempt_dir(self, run_id: str, iter_n: int, attempt: int) -> str:
        """Folder of one attempt: the iteration's own for attempt 1, ``attempt_<k>/`` below it from 2 on."""
        folder = f"{self.run_dir(run_id)}/iter_{iter_n:d}"
        return folder if attempt == 1 else f"{folder}/attempt_{attempt:d}"

    def workflow_dir(self, run_id: str, name: str, content_hash: str) -> str:
        """Folder of the files of a SQL workflow that a run has published."""
        return f"{self.run_dir(run_id)}/workflows/{check_name(name, what='workflow')}_{content_hash[:16]}"

    def harness_dir(self, content_hash: str) -> str:
        """Folder of one published version of the executor harness."""
        return f"{self.volume_root}/harness/{content_hash}"
