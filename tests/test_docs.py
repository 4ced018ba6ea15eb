"""The documentation says what is true: its code runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyranet_fast import __main__, ops

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")] if path.exists()
)
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="no docs: an installed package")


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of exactly this language: ``python notest`` needs files that only a reader has."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


WITH_CODE = [page for page in PAGES if blocks(page, "python")]
RUN = [ROOT / "docs" / "tutorials" / "own-people.md"]
"""Pages whose commands are run, after their code."""


NAMES = {module: name for name, (module, _) in __main__.COMMANDS.items()}


def exit_status(name: str, arguments: list[str]) -> int:
    """Of a command, by the name of its module."""
    with pytest.raises(SystemExit) as end:
        __main__.main([NAMES[name], *arguments])
    return int(end.value.code or 0)


def commands(text: str) -> Iterator[list[str]]:
    """Names and arguments of the commands of this package in a page."""
    for block in re.findall(r"^```sh\n(.*?)^```", text.replace("\\\n", " "), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if found := re.search(r"python -m pyranet_fast\.([\w.]+)(.*)", line):
                yield [found[1], *shlex.split(found[2], comments=True)]


@pytest.mark.parametrize("page", WITH_CODE, ids=names(WITH_CODE))
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {"__name__": "__main__"})
    if page in RUN:
        run = list(commands(page.read_text()))
        assert run
        for name, *arguments in run:
            assert exit_status(name, arguments) == 0, name


RECIPES = sorted((ROOT / "recipes").glob("*.sh"))


def steps(recipe: Path, folder: Path) -> Iterator[list[str]]:
    """Names and arguments of this package's commands in a recipe, which runs with a Python that only takes notes."""
    notes, python = folder / "notes", folder / "python"
    python.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$*\" >>'{notes}'\n")
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(python)}
    subprocess.run(
        ["sh", str(recipe), "DATA", str(folder / "output")], env=environment, check=True, capture_output=True
    )
    for line in notes.read_text().splitlines():
        words = shlex.split(line)
        at = max(i for i, word in enumerate(words) if word == "-m") + 1
        if words[at].startswith("pyranet_fast."):
            yield [words[at].removeprefix("pyranet_fast."), *words[at + 1 :]]


@pytest.mark.skipif(os.name != "posix", reason="recipes are for a POSIX shell")
def test_recipes_start_from_what_is_there(tmp_path: Path) -> None:
    for recipe in RECIPES:
        (tmp_path / recipe.stem).mkdir()
        made: set[str] = set()
        for name, *arguments in steps(recipe, tmp_path / recipe.stem):
            if "--weights" in arguments:
                start = arguments[arguments.index("--weights") + 1]
                assert start in made or Path(start).is_file(), f"{recipe}: {start}"
            if name == "train":
                made.add(f"{arguments[arguments.index('--output') + 1]}/last.pt")
            if name == "export_weights":
                assert arguments[0] in made, f"{recipe}: {arguments[0]}"


def test_commands_and_their_flags_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    helps: dict[str, str] = {}
    used = [(page, command) for page in PAGES for command in commands(page.read_text())]
    assert len(used) > 20
    for recipe in RECIPES if os.name == "posix" else ():
        (tmp_path / recipe.stem).mkdir()
        used += [(recipe, command) for command in steps(recipe, tmp_path / recipe.stem)]
    for page, (name, *arguments) in used:
        if name not in helps:
            assert exit_status(name, ["--help"]) == 0, f"{page}: {name}"
            helps[name] = capsys.readouterr().out
        if "--" in arguments:  # what follows is another command's
            arguments = arguments[: arguments.index("--")]
        for flag in (a.split("=")[0] for a in arguments if a.startswith("--")):
            positive = flag.replace("--no-", "--", 1)
            assert re.search(rf"(?<!\S){flag}\b|{positive}\b", helps[name]), f"{page}: {name} has no {flag}"


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, place = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page}: {target}"
        if place:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert place in map(anchor, headings), f"{page}: {target}"


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs").with_suffix(""))
        if name != "index" and page.name != "table.md":
            assert re.search(rf"^{name}$", contents, re.MULTILINE), name


def test_the_readme_is_short_and_has_every_operator() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    table = text[text.index("## Operators") : text.index("## Models")]
    of_maps = {name for name in ops.__all__ if name.islower() and "canvas" not in name and "backend" not in name}
    assert of_maps <= set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
