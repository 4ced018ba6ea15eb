"""Markdown tables of files of results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench import record
from bench.growth import AXES, along


def heading(content: dict[str, Any], part: str) -> str:
    """The machine, and the command that made a part."""
    about = content["parts"].get(part, {})
    more = "; allocator keeps pages" if about.get("keep_pages") else ""
    return f"{content['machine']}; commit {about.get('commit', 'unknown')}; `{about.get('command', 'unknown')}`{more}:"


def cases(rows: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows by case: everything but the form."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(record.without_form(row), []).append(row)
    return list(found.values())


def _ratio(row: dict[str, Any]) -> str:
    value = row.get("times_the_best_plain")
    return "" if value is None else f"{value:.2f}×"


def _milliseconds(row: dict[str, Any]) -> str:
    digits = 0 if row["ms"] >= 10 else 3
    middle = f"{row['ms']:.{digits}f}"
    return f"{middle} ({row['p25']:.{digits}f}–{row['p75']:.{digits}f})" if "p25" in row and "p75" in row else middle


def _number(row: dict[str, Any], key: str, unit: str, digits: int = 0) -> str:
    return f"{row[key]:.{digits}f}{unit}" if key in row else ""


def _table(head: list[str], body: list[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|---" + "|---:" * (len(head) - 1) + "|",
        *(f"| {' | '.join(line)} |" for line in body),
    ]


def model(content: dict[str, Any]) -> list[str]:
    """A table a case, fastest first; what has no number says why."""
    lines: list[str] = []
    for rows in cases(row for row in content["rows"] if row["part"] == "model"):
        one = rows[0]
        network = [f"{one['stacks']} stacks", f"{one['side']} px", f"batch {one['batch']}"]
        network += [f"{name} {one[name]}" for name, usual in record._UNSAID.items() if one[name] != usual]
        body = []
        for row in sorted(rows, key=lambda r: r.get("ms", float("inf"))):
            name = f"**{row['form']}**" if row["form"].startswith("ours") else row["form"]
            if "ms" not in row:
                body.append([name, row.get("failed", "not measured").replace("|", "\\|"), "", "", "", ""])
                continue
            body.append([name, _milliseconds(row), _number(row, "images_per_s", "", 1), _ratio(row),
                         _number(row, "first_s", " s", 1), _number(row, "peak_MB", " MB")])  # fmt: skip
        title = f"{one['mode']}, {', '.join(network)}"
        lines += [
            "",
            *_table([title, "ms (quartiles)", "images/s", "of the best plain form", "first call", "memory"], body),
        ]
    return lines


def operators(content: dict[str, Any]) -> list[str]:
    """A line a case: ours, the best native form, a copy."""
    body = []
    for rows in cases(row for row in content["rows"] if row["part"] == "operators"):
        timed = {row["form"]: row for row in rows if "ms" in row}
        ours = [row for name, row in timed.items() if name.startswith("ours")]
        if not ours:
            continue
        best = min(ours, key=lambda row: row["ms"])
        plain = [row for name, row in timed.items() if not name.startswith("ours") and name != "copy"]
        rival = min(plain, key=lambda row: row["ms"], default=None)
        more = [f"windows per {best['windows']}"] if "windows" in best else []
        words = [
            best["operator"],
            "×".join(map(str, best["shape"])),
            best["dtype"],
            best["layout"],
            best["direction"],
            *more,
        ]
        native = f"{rival['ms']:.3f} ({rival['form']})" if rival else ""
        share = f"{best['of_copy']:.0%}" if "of_copy" in best else ""
        first = f"{best['first_s'] * 1e3:.1f} ms" if "first_s" in best else ""
        speed = _number(best, "GB_per_s", " GB/s", 1)
        body.append([", ".join(words), _milliseconds(best), native, _ratio(best), speed, share, first])
    head = ["operator", "ours, ms (quartiles)", "best native, ms", "times faster", "speed", "of a copy", "first call"]
    return ["", *_table(head, body)] if body else []


def operators_in_short(content: dict[str, Any]) -> list[str]:
    """A line an operator: the range over shapes and layouts of how many times faster than the best native form."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in content["rows"]:
        if row["part"] == "operators" and row["form"].startswith("ours") and "times_the_best_plain" in row:
            column = f"{row['dtype']}, {row['direction']}"
            found.setdefault(row["operator"], {}).setdefault(column, []).append(row["times_the_best_plain"])
    columns = sorted({column for ratios in found.values() for column in ratios}, reverse=True)
    ranges = {name: [ratios.get(column) for column in columns] for name, ratios in sorted(found.items())}
    body = [[f"`{name}`", *(f"{min(r):.1f}–{max(r):.1f}" if r else "" for r in each)] for name, each in ranges.items()]
    return ["", *_table(["times the best native form", *columns], body)] if body else []


def growth(content: dict[str, Any]) -> list[str]:
    """Along every axis: time, and time for each GFLOP, of the base's."""
    rows = [row for row in content["rows"] if row["part"] == "growth"]
    body = []
    for axis in AXES:
        for (mode, form), series in along(rows, axis).items():
            steps = [
                f"{r[axis]}: {r['ms']:.0f} ms" + (f", {r['peak_MB']:.0f} MB" if "peak_MB" in r else "") for r in series
            ]
            rates = [row["ms"] / row["GFLOP"] for row in series if row.get("GFLOP")]
            body.append(
                [f"{mode}, {form}, by {axis}", "; ".join(steps), f"{min(rates):.2f}–{max(rates):.2f}" if rates else ""]
            )
    return ["", *_table(["growth", "time and memory", "ms a GFLOP"], body)] if body else []


def pipeline(content: dict[str, Any]) -> list[str]:
    """A line a row."""
    body = []
    for row in content["rows"]:
        if row["part"] != "pipeline":
            continue
        hidden = {*record.MEASURED, "part", "form", "device"}
        what = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row.items() if key not in hidden)
        shares = (("data_wait", "of it waiting for data"), ("network_share", "of it in the network"))
        share = [f"{row[key]:.0%} {text}" for key, text in shares if key in row]
        body.append([f"{row['form']}: {what}", _number(row, "people_per_s", "", 1), ", ".join(share)])
    return ["", *_table(["pipeline", "people/s", "of the time"], body)] if body else []


PARTS = {"model": model, "operators": operators, "growth": growth, "pipeline": pipeline}
IN_SHORT = {"model": model, "operators": operators_in_short}


def table(content: dict[str, Any], *, short: bool = False) -> str:
    """Markdown of one file: every part, or what the README has of it, under its machine and command."""
    blocks = []
    for part, make in (IN_SHORT if short else PARTS).items():
        if lines := make(content):
            blocks.append("\n".join([heading(content, part), *lines]))
    return "\n\n".join(blocks)
