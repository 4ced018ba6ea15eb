"""`python -m bench.report [FILE ...]`: writes the speed table of the README and all tables and plots of docs/bench.

A case that several files have is in the README once, from the file that times the most forms of it. Everything comes
from bench/results; nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import runner
from bench.growth import AXES, along
from pyranet_fast import cli
from pyranet_fast.errors import UserError
from pyranet_fast.io import output_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

README = Path(__file__).parents[1] / "README.md"
PAGE = Path(__file__).parents[1] / "docs" / "bench" / "README.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"

# --- tables ----------------------------------------------------------------------------------------------------------


def heading(content: dict[str, Any], part: str) -> str:
    """A part's machine, commit and command in one line."""
    about = content["parts"].get(part, {})
    more = "; allocator keeps pages" if about.get("keep_pages") else ""
    return f"{content['machine']}; commit {about.get('commit', 'unknown')}; `{about.get('command', 'unknown')}`{more}:"


def by_case(rows: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows of each case: those that differ in form alone."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(runner.case_key(row), []).append(row)
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


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table whose columns are aligned right but for the first."""
    return [
        f"| {' | '.join(head)} |",
        "|---" + "|---:" * (len(head) - 1) + "|",
        *(f"| {' | '.join(line)} |" for line in body),
    ]


def model_tables(content: dict[str, Any]) -> list[str]:
    """A table for each case, fastest form first; a form without a number says why."""
    lines: list[str] = []
    for rows in by_case(row for row in content["rows"] if row["part"] == "model"):
        one = rows[0]
        network = [f"{one['stacks']} stacks", f"{one['side']} px", f"batch {one['batch']}"]
        network += [f"{name} {one[name]}" for name, usual in runner.USUAL_NETWORK.items() if one[name] != usual]
        head = [f"{one['mode']}, {', '.join(network)}", "ms (quartiles)", "images/s", "of the best plain form"]
        head += ["of a product"] if any("of_product" in row for row in rows) else []
        head += ["first call", "memory"]
        body = []
        for row in sorted(rows, key=lambda r: r.get("ms", float("inf"))):
            name = f"**{row['form']}**" if row["form"].startswith("ours") else row["form"]
            if "ms" not in row:
                body.append([name, row.get("failed", "not measured").replace("|", "\\|"), *[""] * (len(head) - 2)])
                continue
            share = f"{row['of_product']:.0%}" if "of_product" in row else ""
            body.append([name, _milliseconds(row), _number(row, "images_per_s", "", 1), _ratio(row),
                         *[share][: len(head) - 6], _number(row, "first_s", " s", 1),
                         _number(row, "peak_MB", " MB")])  # fmt: skip
        lines += ["", *markdown_table(head, body)]
    return lines


def operators_table(content: dict[str, Any]) -> list[str]:
    """A line for each case: ours, the best native form, a copy."""
    body = []
    for rows in by_case(row for row in content["rows"] if row["part"] == "operators"):
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
    return ["", *markdown_table(head, body)] if body else []


def operators_summary(content: dict[str, Any]) -> list[str]:
    """A line for each operator: its ratios to the best native form, from least to most over shapes and layouts."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in content["rows"]:
        if row["part"] == "operators" and row["form"].startswith("ours") and "times_the_best_plain" in row:
            column = f"{row['dtype']}, {row['direction']}"
            found.setdefault(row["operator"], {}).setdefault(column, []).append(row["times_the_best_plain"])
    columns = sorted({column for ratios in found.values() for column in ratios}, reverse=True)
    ranges = {name: [ratios.get(column) for column in columns] for name, ratios in sorted(found.items())}
    body = [[f"`{name}`", *(f"{min(r):.1f}–{max(r):.1f}" if r else "" for r in each)] for name, each in ranges.items()]
    return ["", *markdown_table(["times the best native form", *columns], body)] if body else []


def growth_table(content: dict[str, Any]) -> list[str]:
    """A line for each axis, mode and form: time and memory along the axis, and the range of ms a GFLOP."""
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
    return ["", *markdown_table(["growth", "time and memory", "ms a GFLOP"], body)] if body else []


def pipeline_table(content: dict[str, Any]) -> list[str]:
    """A line for each row."""
    body = []
    for row in content["rows"]:
        if row["part"] != "pipeline":
            continue
        hidden = {*runner.MEASURED, "part", "form", "device"}
        what = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row.items() if key not in hidden)
        shares = (("data_wait", "of it waiting for data"), ("network_share", "of it in the network"))
        share = [f"{row[key]:.0%} {text}" for key, text in shares if key in row]
        body.append([f"{row['form']}: {what}", _number(row, "people_per_s", "", 1), ", ".join(share)])
    return ["", *markdown_table(["pipeline", "people/s", "of the time"], body)] if body else []


TABLES = {"model": model_tables, "operators": operators_table, "growth": growth_table, "pipeline": pipeline_table}


def tables_of(content: dict[str, Any]) -> str:
    """One file as Markdown, each part under its machine and command."""
    blocks = []
    for part, make in TABLES.items():
        if lines := make(content):
            blocks.append("\n".join([heading(content, part), *lines]))
    return "\n\n".join(blocks)


# --- the README ------------------------------------------------------------------------------------------------------

RIVALS = {"eager": "eager PyTorch", "compiled": "torch.compile", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""First word of a form: what the README calls it."""
PRECISIONS = ("fp32", "bf16", "fp16")


def _fastest(rows: Iterable[dict[str, Any]], kind: str, precision: str) -> float | None:
    """Milliseconds of the fastest form of a kind in a precision."""
    words = [(row["form"].split(), row) for row in rows if "ms" in row]
    return min((row["ms"] for form, row in words if form[0] == kind and precision in form), default=None)


def speed_table(contents: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each machine, network, mode and precision: our time, and each rival's fastest form over it."""
    found: dict[tuple[str, ...], dict[int, list[dict[str, Any]]]] = {}
    for content in contents:
        for row in content["rows"]:
            if row["part"] == "model":
                case = (content["machine"].split(", torch")[0], f"{row['mode']}, {row['stacks']} stacks")
                found.setdefault(case, {}).setdefault(row["batch"], []).append(row)
    body = []
    for (machine, network), batches in found.items():
        for precision in PRECISIONS:
            ours = {batch: _fastest(rows, "ours", precision) for batch, rows in sorted(batches.items())}
            timed = {batch: ms for batch, ms in ours.items() if ms}
            if not timed:
                continue
            ratios = []
            for kind in RIVALS:
                rivals = [(_fastest(batches[batch], kind, precision), ms) for batch, ms in timed.items()]
                ratios.append(" / ".join(f"{rival / ms:.2f}" if rival else "–" for rival, ms in rivals))
            batch = " / ".join(map(str, timed))
            milliseconds = " / ".join(f"{ms:.0f} ms" for ms in timed.values())
            ratios = ["" if set(ratio) <= set("– /") else ratio for ratio in ratios]
            body.append([f"{machine}: {network}, {precision}, batch {batch}", milliseconds, *ratios])
    head = ["256×256 pixels", "ours", *(f"× {name}" for name in RIVALS.values())]
    return markdown_table(head, body) if body else []


def readme_tables(contents: Sequence[dict[str, Any]]) -> str:
    """What stands in the README: the network beside its rivals on each machine, the operators once."""
    blocks = ["\n".join(speed_table(contents))]
    for content in each_case_once(contents):
        if lines := operators_summary(content):
            blocks.append("\n".join([f"{content['machine']}:", *lines]))
    return "\n\n".join(block for block in blocks if block)


# --- plots -----------------------------------------------------------------------------------------------------------

TITLES = {"batch": "batch", "stacks": "stacks", "levels": "pyramid levels C", "side": "resolution, px"}


def _figure(title: str, columns: int) -> tuple[Figure, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # who only makes tables needs no matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * columns + 2.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title.split(", torch")[0], fontsize=9)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, list(axes)


def throughput_plot(content: dict[str, Any]) -> Figure | None:
    """Images a second by batch size, in inference and training."""
    series = along([row for row in content["rows"] if row["part"] == "growth"], "batch")
    if not series:  # no growth was measured: take the batches of bench.model
        by_stacks: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in content["rows"]:
            if row["part"] == "model" and "images_per_s" in row:
                by_stacks.setdefault((row["mode"], f"{row['form']}, {row['stacks']} stacks"), []).append(row)
        series = {key: rows for key, rows in by_stacks.items() if len({row["batch"] for row in rows}) > 1}
    if not series:
        return None
    modes = sorted({mode for mode, _ in series})
    figure, axes = _figure(content["machine"], len(modes))
    for axis, mode in zip(axes, modes, strict=True):
        for (of, form), found in series.items():
            if of == mode:
                axis.plot([r["batch"] for r in found], [r["images_per_s"] for r in found], **_style(form))
        axis.set(title=mode, xlabel="batch", ylabel="images a second", ylim=(0, None))
        axis.set_xticks(sorted({row["batch"] for found in series.values() for row in found}))
    _legend(axes[-1])
    return figure


def growth_plot(content: dict[str, Any], axis_name: str) -> Figure | None:
    """Time and memory along an axis; the dotted line is the base's time scaled by GFLOP."""
    rows = [row for row in content["rows"] if row["part"] == "growth"]
    series = along(rows, axis_name)
    if not series:
        return None
    modes = sorted({mode for mode, _ in series})
    figure, axes = _figure(content["machine"], 2 * len(modes))
    for number, mode in enumerate(modes):
        times, memory = axes[2 * number : 2 * number + 2]
        for (of, form), found in series.items():
            if of != mode:
                continue
            at = [row[axis_name] for row in found]
            line = times.plot(at, [row["ms"] for row in found], **_style(form))[0]
            base = min(found, key=lambda row: abs(row[axis_name] - row["base"][axis_name]))
            if all(row.get("GFLOP") for row in found):
                work = [row["GFLOP"] / base["GFLOP"] * base["ms"] for row in found]
                times.plot(at, work, linestyle=":", color=line.get_color(), linewidth=1)
            known = [row for row in found if "peak_MB" in row]
            memory.plot([row[axis_name] for row in known], [row["peak_MB"] for row in known], **_style(form))
        times.set(title=f"{mode}: time (dotted: by GFLOP)", ylabel="ms")
        memory.set(title=f"{mode}: most memory", ylabel="MB")
        for axis in (times, memory):
            axis.set(xlabel=TITLES[axis_name], ylim=(0, None))
    _legend(axes[-1])
    return figure


def roofline_plot(content: dict[str, Any]) -> Figure | None:
    """Bytes a second of each operator's cases against their bytes, beside a copy of as many."""
    rows = [row for row in content["rows"] if row["part"] == "operators" and "GB_per_s" in row]
    if not any(row["form"].startswith("ours") for row in rows):
        return None
    figure, (axis,) = _figure(content["machine"], 1)
    copies = sorted((row["MB"], row["GB_per_s"]) for row in rows if row["form"] == "copy")
    if copies:
        axis.plot(*zip(*copies, strict=True), ".", color="0.7", markersize=3, label="copy")
    names = sorted({row["operator"] for row in rows})
    for number, name in enumerate(names):
        of = [row for row in rows if row["operator"] == name]
        for forms, marker in (("ours", "o"), ("eager", "x")):
            points = [(row["MB"], row["GB_per_s"]) for row in of if row["form"].startswith(forms)]
            if points:
                label = f"{name}, {forms}"
                axis.plot(*zip(*points, strict=True), marker, color=f"C{number}", markersize=4, label=label)
    axis.set(xscale="log", yscale="log", xlabel="MB that must move", ylabel="GB a second")
    _legend(axis)
    return figure


def _legend(axis: Any) -> None:
    """Puts the legend beside the last plot, where it hides nothing."""
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _style(form: str) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4, "label": form, "linewidth": 2 if form.startswith("ours") else 1}


def draw_plots(contents: Mapping[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Writes every plot that the files have rows for; ``contents`` is by file name, which begins each plot's name."""
    written = []
    for name, content in contents.items():
        figures = {"throughput": throughput_plot(content), "roofline": roofline_plot(content)}
        figures |= {f"growth-{axis}": growth_plot(content, axis) for axis in AXES}
        for kind, figure in figures.items():
            if figure is not None:
                path = folder / f"{name}-{kind}.png"
                figure.savefig(path, dpi=110)
                written.append(path)
    return written


# --- pages -----------------------------------------------------------------------------------------------------------


def readme_with(text: str, tables: str) -> str:
    """The README with these tables between its two marks.

    Raises:
        UserError: it has no marks.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"README.md needs {BEGIN} and {END}, once each and in this order")
    return text[: text.index(BEGIN) + len(BEGIN)] + f"\n{tables}\n" + text[text.index(END) :]


def each_case_once(contents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The files, with each case kept only in the one that times the most of its forms, so that README shows it once."""
    forms: dict[Any, Counter[int]] = {}
    for number, content in enumerate(contents):
        for row in content["rows"]:
            forms.setdefault(runner.case_key(row), Counter())[number] += "ms" in row
    chosen = {case: max(sorted(counts), key=lambda number: counts[number]) for case, counts in forms.items()}
    return [
        {**content, "rows": [row for row in content["rows"] if chosen[runner.case_key(row)] == number]}
        for number, content in enumerate(contents)
    ]


def page_of(contents: Sequence[dict[str, Any]], pictures: Sequence[Path]) -> str:
    """docs/bench/README.md: all tables and plots of all files."""
    blocks = ["# All measurements\n\nWritten by `python -m bench.report --write` out of `bench/results`; do not edit."]
    blocks += [text for content in contents if (text := tables_of(content))]
    blocks += [f"![{path.stem}]({path.name})" for path in pictures]
    return "\n\n".join(blocks) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints, writes or checks the tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="(default: bench/results/*.json)")
    parser.add_argument("--write", action="store_true", help="write them to README.md and docs/bench")
    parser.add_argument("--check", action="store_true", help="exit status 1 if README.md is out of date")
    parser.add_argument("--readme", type=Path, default=README, help="page to update instead of README.md")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to update instead of docs/bench/README.md")
    arguments = parser.parse_args(argv)
    files = arguments.files or sorted(runner.RESULTS.glob("*.json"), key=lambda path: path.stem)
    if not files:
        raise UserError(f"{runner.RESULTS} holds no *.json; python -m bench.model writes one")
    contents = [runner.read_results(path) for path in files]
    if not arguments.write and not arguments.check:
        print("\n\n".join(text for content in contents if (text := tables_of(content))))
        return 0
    before = arguments.readme.read_text()
    after = readme_with(before, readme_tables(contents))
    if not arguments.write:
        if before != after:
            print(f"{arguments.readme} has other tables; python -m bench.report --write", file=sys.stderr)
        return int(before != after)
    arguments.readme.write_text(after)
    pictures = draw_plots(
        {path.stem: content for path, content in zip(files, contents, strict=True)},
        output_folder(arguments.page.parent),
    )
    arguments.page.write_text(page_of(contents, pictures))
    for path in (arguments.readme, arguments.page, *pictures):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
