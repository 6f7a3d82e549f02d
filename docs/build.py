"""Builds the documentation, strictly, into docs/.build/site.

    uv run python docs/build.py
    uv run python -m http.server --directory docs/.build/site      to look at it, search included

Zensical reads one folder, so what belongs there is gathered first: the pages of this folder, the files of the project
that they link to (the lab book, the pictures), and pages made from the code, one for the commands and one for each
module, so that no list of them is kept by hand. A warning of Zensical's ends the build. So does what it does not look
for: a link or picture that leads nowhere, a page in no menu, and anything that a reader's browser would load from
elsewhere.
"""

import ast
import inspect
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BUILD = DOCS / ".build"
CODE = re.compile(r"^(```+).*?^\1|(`+)[^`].*?\2", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)|\b(?:src|href)=\"([^\"]+)\"")
ELSEWHERE = re.compile(r"[a-z][a-z+.-]*:|//")  # a scheme or a host
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}
AT_SIGHT = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "manifest"}


class DocumentationError(Exception):
    """Something in the pages that Zensical would let pass; the sentence says where."""


def links(text: str) -> Iterator[re.Match[str]]:
    """The links and pictures of a Markdown text, but for those in code."""
    code = [found.span() for found in CODE.finditer(text)]
    for found in LINK.finditer(text):
        if not any(start <= found.start() < end for start, end in code):
            yield found


def target(found: re.Match[str]) -> str:
    return found[1] or found[2]


def place(path: str) -> str:
    """Where a file of the project stands among the gathered ones, both from their roots: pages of docs at the top."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"project/{path}"


def gather(root: Path = ROOT) -> dict[str, bytes]:
    """{place: content} of the pages of docs, of README.md and of all the files that they link to.

    Raises:
        DocumentationError: a link leads nowhere, or to a folder.
    """
    gathered: dict[str, bytes] = {}
    waiting = ["README.md", *(path.relative_to(root).as_posix() for path in sorted((root / "docs").rglob("*.md")))]
    waiting = [path for path in waiting if ".build/" not in path]
    while waiting:
        path = waiting.pop()
        if place(path) in gathered:
            continue
        if path.endswith(".md"):
            text, linked = moved((root / path).read_text(encoding="utf-8"), path, root)
            gathered[place(path)] = text.encode()
            waiting += linked
        else:
            gathered[place(path)] = (root / path).read_bytes()
    return gathered


def moved(text: str, page: str, root: Path) -> tuple[str, list[str]]:
    """A page with its links as they must be among the gathered files, and the files that it links to.

    Args:
        page: where it stands in the project.

    Raises:
        DocumentationError: as `gather`.
    """
    pieces, linked, at = [], [], 0
    for found in links(text):
        file, hash_, anchor = target(found).partition("#")
        if ELSEWHERE.match(file) or not file:
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), file))
        if path.startswith("..") or not (root / path).is_file():
            raise DocumentationError(f"{page}: {target(found)} is no file of the project")
        linked.append(path)
        start, end = found.span(1 if found[1] else 2)
        pieces += [text[at:start], posixpath.relpath(place(path), posixpath.dirname(place(page)) or "."), hash_, anchor]
        at = end
    return "".join(pieces) + text[at:], linked


def module_pages(root: Path = ROOT) -> dict[str, bytes]:
    """A page for each module, and one that lists them by folder, each with the first sentence of its docstring."""
    pages, listed = {}, []
    for folder in sorted({path.parent for path in (root / "pneumonia").rglob("*.py")}):
        package = ".".join(folder.relative_to(root).parts)
        listed.append(f"\n## {package}\n")
        for path in sorted(folder.glob("*.py"), key=lambda path: (path.stem != "__init__", path.stem)):
            name = package if path.stem == "__init__" else f"{package}.{path.stem}"
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if docstring is None:
                raise DocumentationError(f"{path.relative_to(root)} has no docstring")
            listed.append(f"- [`{name.removeprefix('pneumonia.')}`]({name}.md): {first_sentence(docstring)}")
            pages[f"reference/{name}.md"] = f"# {name}\n\n::: {name}\n".encode()
    head = "# Modules\n\nMade from their docstrings. How they belong together: [Architecture](../architecture.md).\n"
    return {**pages, "reference/index.md": "\n".join([head, *listed, ""]).encode()}


def first_sentence(docstring: str) -> str:
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph)[0]


def commands_page() -> bytes:
    """What `--help` says of each command."""
    from pneumonia.cli import cli

    parts = ["# Commands\n\nWhat `uv run pneumonia COMMAND --help` says, made from the program.\n"]
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=f"pneumonia {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        parts += [f"## {name}\n", f"```text\npneumonia {name} {usage}\n```\n", inspect.cleandoc(command.help or ""), ""]
        rows = [found for one in command.get_params(context) if (found := one.get_help_record(context)) is not None]
        parts += [*(f"- `{flag}`: {what}" for flag, what in rows), ""]
    return "\n".join(parts).encode()


def check_menu(places: set[str]) -> None:
    """Raises:
    DocumentationError: the menu names a page that is not there, or lacks one of docs.
    """

    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for one in entry.values() if isinstance(entry, dict) else entry:  # type: ignore[attr-defined]
                yield from pages(one)

    menu = set(pages(tomllib.loads((DOCS / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))
    hand_made = {one for one in places if one.endswith(".md") and not one.startswith(("project/", "reference/"))}
    if (missing := menu - places) or (missing := hand_made - menu):
        raise DocumentationError(
            f"in the menu and no page, or a page and not in the menu: {', '.join(sorted(missing))}"
        )


class Loads(HTMLParser):
    """What a browser loads by itself for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        relations = set(values.get("rel", "").split())
        if tag in LOADS and (tag != "link" or relations & AT_SIGHT):
            self.found.append(values.get(LOADS[tag], ""))
        self.found += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style", ""))
        if "mermaid" in values.get("class", "").split():
            self.found.append("https://unpkg.com/mermaid")  # which the theme fetches when it meets a diagram


def check_site(site: Path) -> None:
    """Raises:
    DocumentationError: a page would load something from elsewhere, or a file that is not there.
    """
    for path in sorted(site.rglob("*.html")):
        loads = Loads()
        loads.feed(path.read_text(encoding="utf-8"))
        for one in loads.found:
            file = re.split(r"[?#]", one)[0]
            if one.startswith("data:") or not file:
                continue
            there = site / file.lstrip("/") if file.startswith("/") else path.parent / file
            if ELSEWHERE.match(one) or not there.is_file():
                raise DocumentationError(f"{path.relative_to(site)} loads {one}")
    for path in sorted(site.rglob("*.css")):
        for one in re.findall(r"url\(['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", path.read_text(encoding="utf-8")):
            if ELSEWHERE.match(address := "".join(one)) and not address.startswith("data:"):
                raise DocumentationError(f"{path.relative_to(site)} loads {address}")


def main() -> None:
    try:
        pages = {**gather(), **module_pages(), "reference/commands.md": commands_page()}
        check_menu(set(pages))
        shutil.rmtree(BUILD, ignore_errors=True)
        for name, content in pages.items():
            path = BUILD / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        shutil.copy(DOCS / "zensical.toml", BUILD)
        words = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(words, cwd=BUILD, env={**os.environ, "PYTHONPATH": str(ROOT)})
        if done.returncode:
            sys.exit(done.returncode)
        check_site(BUILD / "site")
    except DocumentationError as error:
        sys.exit(f"error: {error}")
    print(f"{len(list((BUILD / 'site').rglob('*.html')))} pages: {BUILD / 'site' / 'index.html'}")


if __name__ == "__main__":
    main()
