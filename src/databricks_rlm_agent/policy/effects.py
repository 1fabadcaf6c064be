"""Which calls write, delete, run commands or read secrets in Python, Spark and pandas: as tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum, auto

from databricks_rlm_agent.sqltext.names import UNKNOWN


class EffectKind(StrEnum):
    """Kinds of effects: on tables (by name), schemas, paths, or the machine."""

    WRITE = auto()
    CREATE = auto()  # a table that was not there, or is replaced whole
    DESTROY = auto()  # drops or empties a table
    MAKE_SCHEMA = auto()
    DROP_SCHEMA = auto()  # or a catalog, or a volume
    GRANT = auto()
    USE = auto()  # changes what names without a schema mean
    PUT_FILE = auto()
    REMOVE_FILE = auto()
    SHELL = auto()
    SECRET = auto()
    UNCLEAR = auto()


@dataclass(frozen=True, kw_only=True)
class ProgramEffect:
    """One effect: ``what`` for people, ``target`` the parts of a name, or one path or command, and its line.
    What is not known before the program runs is ``*``.
    """

    kind: EffectKind
    what: str
    target: tuple[str, ...] = ()
    line: int = 0


def known(text: str) -> str:
    """``text`` with ``*`` for what is not known."""
    return text.replace(UNKNOWN, "*")


# Methods that write a table, and the names of the argument that says which.
TABLE_WRITERS = {
    "saveAsTable": ("name",),
    "insertInto": ("tableName",),
    "writeTo": ("table",),
    "toTable": ("tableName",),
    "createTable": ("tableName",),
    "createExternalTable": ("tableName",),
}
_PUT, _REMOVE = EffectKind.PUT_FILE, EffectKind.REMOVE_FILE
_FILE_CALLS = {
    "os.remove os.unlink os.rmdir os.removedirs shutil.rmtree dbutils.fs.rm": ((_REMOVE, 0),),
    "os.rename os.replace os.renames shutil.move dbutils.fs.mv": ((_REMOVE, 0), (_PUT, 1)),
    "shutil.copy shutil.copy2 shutil.copyfile shutil.copytree dbutils.fs.cp": ((_PUT, 1),),
    "os.makedirs os.mkdir dbutils.fs.put dbutils.fs.mkdirs numpy.save numpy.savez np.save": ((_PUT, 0),),
}
FILE_CALLS: dict[str, tuple[tuple[EffectKind, int], ...]] = {
    name: effects for names, effects in _FILE_CALLS.items() for name in names.split()
}
"""Functions by full name: what each does to its arguments, by their places."""
PATH_METHODS = {
    **dict.fromkeys(("write_text", "write_bytes", "mkdir", "touch"), _PUT),
    **dict.fromkeys(("unlink", "rmdir"), _REMOVE),
}
"""Methods of a path; on anything else the effect has no target in a Volume."""
# Methods of DataFrame writers (after ``.write``) and of pandas (``to_…``).
FRAME_FILES = {
    *("parquet", "csv", "json", "orc", "text", "save", "start"),
    *(
        "to_csv",
        "to_parquet",
        "to_json",
        "to_pickle",
        "to_excel",
        "to_feather",
        "to_hdf",
        "to_orc",
        "to_html",
    ),
}
SHELLS = re.compile(
    r"os\.(?:system|popen|exec\w+|spawn\w+|posix_spawnp?)|pty\.spawn"
    r"|subprocess\.(?:run|call|check_call|check_output|Popen|getoutput|getstatusoutput)"
    r"|asyncio\.create_subprocess_(?:exec|shell)"
)
EVALUATORS = {"exec", "eval"}
# Functions whose arguments are messages or patterns, which are not executed.
MESSAGE_FUNCTIONS = {
    *("print", "log", "info", "warning", "error", "debug", "exception", "llm_query", "llm_query_batched"),
    *("metric", "finish", "ValueError", "RuntimeError", "Exception", "AssertionError"),
    *("compile", "search", "match", "fullmatch", "findall", "sub", "split", "contains", "startswith"),
}
ENVIRONMENT = {f"os.{name}" for name in ("environ", "environb", "getenv")}
SECRET_FILES = re.compile(r"/proc/\w+/environ|\.databrickscfg|\.netrc|\.aws/credentials|\.ssh/")
# What no command may do: destroy what the run has not made, run what comes from the network, reveal secrets.
DESTRUCTIVE = re.compile(
    r"\brm\s+(?:-[-\w=]+\s+)*-(?:-recursive|-force|\w*[rRf])|\bmkfs\b|\bdd\b[^|;]*\bof=/|\bshred\b|>\s*/dev/sd"
    r"|\b(?:curl|wget)\b[^;]*\|\s*(?:sudo\s+)?\w*sh\b|\b(?:shutdown|reboot|poweroff|halt)\b|:\(\)\s*\{"
    r"|\bkill(?:all)?\s+-9\s+-?1\b|\bchmod\s+(?:-\w+\s+)*777\s+/|\bfind\b.*\s-delete\b"
)
REVEALING = re.compile(r"\bprintenv\b|(?:^|[;&|(]\s*)(?:env|set|export)\s*(?:$|[;&|>])|/proc/\w+/environ")
