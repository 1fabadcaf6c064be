"""A time limit on a statement: the warehouse is told to cancel it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from databricks_rlm_agent.errors import Rejected

_AGAIN_S = 1.0


@contextmanager
def within(limit_s: float | None, cursor: Any, *, where: str) -> Iterator[None]:
    """Cancel what a cursor of the connector is doing after so many seconds, and raise Rejected then.

    ``Cursor.cancel`` may be called from another thread (databricks-sql-connector 4.9). It is called again
    until the statement has ended: the first call may come before the warehouse has given it an id.
    """
    if limit_s is None:
        yield
        return
    done, late = threading.Event(), threading.Event()

    def watch(pause: float) -> None:
        while not done.wait(pause):
            late.set()
            pause = _AGAIN_S
            with suppress(Exception):  # the statement's own thread meets the same fault, and reports it
                cursor.cancel()

    threading.Thread(target=watch, args=(limit_s,), name="statement-limit", daemon=True).start()
    try:
        yield
    except Exception:
        if not late.is_set():
            raise
        raise Rejected(
            f"The statement was cancelled: it took longer than {limit_s:g} seconds.",
            where=where,
            fix="Write one that reads less.",
        ) from None
    finally:
        done.set()
