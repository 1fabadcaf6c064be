"""Renders the report of a workflow, from its JSON, as one HTML page that loads nothing else. Pure."""

from __future__ import annotations

from importlib import resources

from databricks_rlm_agent.sqlflow.model import percent
from databricks_rlm_agent.sqlflow.report.charts import Document, Markup, el, loop_chart, seconds, timeline
from databricks_rlm_agent.sqlflow.report.plans import stage_name
from databricks_rlm_agent.values import clip

_MESSAGE = 4000  # characters of a message at most
_GOOD = {"done", "kept"}
MARKS = {"done": "✓", "kept": "✓", "failed": "✗", "interrupted": "✗", "skipped": "-", "not run": "-"}
"""Of steps, by status."""
# Nothing is loaded, and nothing runs, whatever a name or a statement may hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def as_page(report: Document) -> str:
    """Return the page of a report, which is what ``Report.to_dict`` returns."""
    title = f"{report['workflow']}: {report['status']}"
    style = Markup((resources.files(__package__) / "page.css").read_text(encoding="utf-8"))
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", style),
    )
    parts = (_header(report), _problems(report), _timeline(report), _loops(report), _tables(report))
    body = el("body", el("main", *parts, _steps(report), _lists(report), _footer(report)))
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _header(report: Document) -> Markup:
    steps, wall = report["steps"], float(report["seconds"])
    done = sum(step["status"] in _GOOD for step in steps)
    bad = sum(not table["good"] for table in report["tables"])
    verdict = f", {bad} at fault" if bad else ", all good"
    cards = [
        _card(f"{done} of {len(steps)}", "steps done"),
        _card(seconds(wall), "from start to end"),
        _card(seconds(float(report["path_seconds"])), f"critical path{_share(report['path_seconds'], wall)}"),
        _card(f"{float(report['step_seconds']) / wall:.1f}" if wall else "-", "steps at once on average"),
        _card(str(len(report["tables"])), f"tables checked{verdict if report['tables'] else ''}"),
    ]
    badge = el("span", report["status"], class_=f"badge {report['status']}")
    started = str(report["started_at"])[:19].replace("T", " ")
    run = el("p", "run ", el("code", report["workflow_run_id"]), f", begun {started} UTC", class_="muted")
    return el("header", el("h1", report["workflow"], " ", badge), run, el("div", *cards, class_="cards"))


def _card(value: str, label: str) -> Markup:
    return el("div", el("b", value), el("span", label), class_="card")


def _share(part: float, whole: float) -> str:
    return f", {part / whole:.0%} of it" if whole else ""


def _section(title: str, *children: object) -> Markup:
    return el("section", el("h2", title), *children)


def _problems(report: Document) -> Markup | None:
    found = [(step, step["problem"], "failed") for step in report["steps"] if step["problem"]]
    found += [(step, warning, "warning") for step in report["steps"] for warning in step["warnings"]]
    faults = [f"{table['table']}: {fault}" for table in report["tables"] for fault in table["faults"]]
    if not found and not faults:
        return None
    cards = [_problem(step, problem, kind) for step, problem, kind in found]
    return _section(
        "Problems",
        *cards,
        el("ul", [el("li", fault) for fault in faults], class_="faults") if faults else None,
    )


def _problem(step: Document, problem: Document, kind: str) -> Markup:
    where = ":".join(str(problem[key]) for key in ("file", "line") if problem[key] is not None)
    head = el(
        "p",
        el("b", step["id"]),
        el("code", where) if where else None,
        el("span", f"{problem['severity']}, {problem['kind']}", class_="muted"),
        class_="where",
    )
    message = el("p", clip(problem["message"], _MESSAGE), class_="message")
    statement = el("pre", problem["statement"]) if problem["statement"] else None
    hint = el("p", "→ ", problem["hint"], class_="hint")
    return el("article", head, message, statement, hint, class_=f"problem {kind}")


def _timeline(report: Document) -> Markup:
    ends = {step["status"] for step in report["steps"]}
    entries = [("bar done", "step"), ("bar done path", "on the critical path")]
    if any(step["iterations"] for step in report["steps"]):
        entries.append(("iteration odd", "iterations"))
    entries += [(f"bar {end}", end) for end in ("failed", "interrupted") if end in ends]
    legend = [el("span", el("i", class_=kind), name) for kind, name in entries]
    picture = el("div", timeline(report), class_="scroll")
    return _section("When each step ran", el("p", *legend, class_="legend"), picture)


def _loops(report: Document) -> Markup | None:
    loops = [step for step in report["steps"] if step["iterations"]]
    if not loops:
        return None
    note = el("p", "Rows changed by each iteration, on a logarithmic scale.", class_="muted")
    return _section("Loops", note, el("div", *(_loop(step) for step in loops), class_="loops"))


def _loop(step: Document) -> Markup:
    many = len(step["iterations"])
    end = step["end"] or step["status"]
    summary = f"{end}, {many} iteration{'' if many == 1 else 's'}"
    rows = [str(each["rows"]) for each in step["iterations"][-1:] if each["rows"] is not None]
    size = f", {int(rows[0]):,} rows" if rows else ""
    return el("figure", el("figcaption", el("b", step["id"]), " ", f"{summary}{size}"), loop_chart(step))


def _steps(report: Document) -> Markup:
    longest = max((float(step["seconds"]) for step in report["steps"]), default=0.0)
    rows = [_step(step, longest, on_path=step["id"] in report["path"]) for step in report["steps"]]
    heads = [("", ""), ("step", ""), ("stage", ""), ("time", "number"), ("", ""), ("statements", "number")]
    heads += [("rows", "number"), ("", "")]
    return _section("Steps", _table(heads, rows))


def _step(step: Document, longest: float, *, on_path: bool) -> Markup:
    took = float(step["seconds"])
    ran = step["started_at"] is not None
    share = f"width:{100 * took / longest:.0f}%" if longest else "width:0"
    kind = f"meter {'path' if on_path else ''}"
    status = {"done": "", "kept": "done before"}.get(step["status"], step["status"])
    stage = stage_name(step["stage"]).removeprefix("Stage ") if step["stage"] is not None else "-"
    return el(
        "tr",
        el("td", MARKS[step["status"]], class_=f"mark {step['status'].replace(' ', '-')}"),
        el("td", step["id"], class_="name"),
        el("td", stage),
        el("td", seconds(took) if ran else "", class_="number"),
        el("td", el("div", el("i", style=share), class_=kind) if ran else None, class_="wide"),
        el("td", step["statements"] or "", class_="number"),
        el("td", f"{step['rows']:,}" if step["rows"] is not None else "", class_="number"),
        el("td", step["end"] or status),
    )


def _tables(report: Document) -> Markup | None:
    if not report["tables"]:
        return None
    heads = [("", ""), ("table", ""), ("rows", "number"), ("key", ""), ("coverage", "")]
    return _section("Tables", _table(heads, [_checked(table) for table in report["tables"]]))


def _checked(table: Document) -> Markup:
    key = ", ".join(table["key"])
    held = {True: "unique", False: f"{table['duplicates'] or 0:,} rows twice", None: "not known"}
    rows = f"{table['rows']:,}" if table["rows"] is not None else "view" if table["view"] else ""
    return el(
        "tr",
        el("td", "✓" if table["good"] else "✗", class_=f"mark {'done' if table['good'] else 'failed'}"),
        el("td", table["table"], class_="name"),
        el("td", rows, class_="number"),
        el("td", f"{key}: {held[table['unique']]}" if key else ""),
        el("td", *(_coverage(each) for each in table["coverage"])),
    )


def _coverage(each: Document) -> Markup:
    share = each["share"]
    found = "no keys" if share is None else percent(share)
    meter = el("i", style=f"width:{100 * (share if share is not None else 1.0):.1f}%")
    bar = el("div", meter, class_="meter" if each["good"] else "meter bad")
    text = f"{found} of {each['table']} ({each['found']:,} of {each['keys']:,})"
    return el("div", bar, el("span", text), class_="coverage")


def _table(heads: list[tuple[str, str]], rows: list[Markup]) -> Markup:
    head = el("tr", *(el("th", name, class_=kind or None) for name, kind in heads))
    return el("div", el("table", el("thead", head), el("tbody", *rows)), class_="scroll")


def _lists(report: Document) -> list[Markup]:
    return [
        _section(title, el("ul", *(el("li", line) for line in report[key])))
        for title, key in (("Next", "next"), ("Notices", "notices"))
        if report[key]
    ]


def _footer(report: Document) -> Markup | None:
    if not report["place"]:
        return None
    return el("footer", "On record in ", el("code", f"{report['place']}.sql_workflow_runs"))
