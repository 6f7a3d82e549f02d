"""README and documentation hold what they say: commands, options, Python, links, paths."""

import argparse
import importlib
import importlib.util
import itertools
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click
import pytest
import yaml
from click.testing import CliRunner
from mlflow.cli import cli as mlflow

from pneumonia.cli import cli
from pneumonia.registry import versions as registry
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *(path for path in sorted((ROOT / "docs").rglob("*.md")) if ".build" not in path.parts)]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
ENTRIES = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MARKS = {mark.split(":")[0] for mark in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
NOT_OURS = {
    *("pip", "python3", ".", "curl", "du", "export", "printf", "apt-get", "nginx", "systemctl"),
    *("ruff", "mypy", "jupyter"),
}
QUICK = ("eda", "evaluate", "compare", "predict", "promote", "sync")  # commands that a test can run as they stand


class Block(NamedTuple):
    page: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    found = [
        Block(path.relative_to(ROOT).as_posix(), *match.groups())
        for path in PAGES
        for match in BLOCK.finditer(path.read_text())
    ]
    return [block for block in found if not languages or block.language in languages]


def prose(path: Path) -> str:
    """A page without its blocks."""
    return BLOCK.sub("", path.read_text())


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a piece of shell, word by word."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        words.whitespace_split = True
        command: list[str] = []
        for word in words:
            if set(word) <= set("&|;"):
                yield command
                command = []
            else:
                command.append(word)
        if command:
            yield command


IN_BLOCKS = [(block.page, words) for block in blocks("sh") for words in commands(block.text)]
IN_PROSE = [
    (path.relative_to(ROOT).as_posix(), words)
    for path in PAGES
    for text in INLINE.findall(prose(path))
    if re.match(r"(uv run|uv sync|python -m|mlflow [a-z]+|python3|pneumonia [a-z]+)\b", text)
    for words in commands(text)
]


def bare(words: list[str]) -> list[str]:
    """Without variables that are set for it, sudo and `uv run`."""
    while words and re.match(r"[A-Z_]+=|sudo$", words[0]):
        words = words[1:]
    if words[:2] == ["uv", "run"]:
        words = words[2:]
        while words and words[0].startswith("--"):  # --with PACKAGE
            words = words[2:]
    return words


def check(words: list[str]) -> None:
    """Raises click.UsageError or AssertionError: the command would not do what the page says."""
    words = bare(words)
    program, rest = words[0], words[1:]
    for word in words:
        if re.match(r"(pneumonia|experiments|tests|docs|\.ci)/", word) and ".build" not in word:
            assert (ROOT / word).exists(), word
    if program == "pneumonia":
        parse(cli, rest)
    elif program == "mlflow":
        parse(mlflow, rest)
        if rest[0] == "run" and len(rest) > 1:
            entry(rest)
    elif words[:3] == ["python", "-m", "http.server"] or program == "cp":
        pass
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), words[2]  # its options: see the slow test
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), rest[0]
    elif words[:2] == ["uv", "sync"]:
        extras = {extra for flag, extra in itertools.pairwise(rest) if flag == "--extra"}
        assert extras <= set(PROJECT["project"]["optional-dependencies"]), extras
    elif program == "pytest":
        assert set(re.findall(r"\w+", rest[1] if rest else "")) - {"or", "and", "not"} <= MARKS
    else:
        assert program in NOT_OURS, f"{program}: what is it?"


def parse(group: click.Command, words: list[str]) -> None:
    """Raises click.UsageError: the command or an option of it is not there, or has another kind of value."""
    context = click.Context(group)
    while isinstance(group, click.Group) and words:
        name, group, words = group.resolve_command(context, words)
        context = click.Context(group, info_name=name, parent=context)
    with suppress(click.exceptions.Exit):  # --help
        group.make_context(context.info_name, list(words), parent=context.parent)


def entry(words: list[str]) -> None:
    """The entry point of MLproject and its command, with the parameters that are given to `mlflow run`."""
    given = dict(words[at + 1].split("=", 1) for at, word in enumerate(words) if word == "-P")
    name = words[words.index("-e") + 1] if "-e" in words else "main"
    assert name in ENTRIES, name
    chosen = ENTRIES[name]
    assert set(given) <= set(chosen["parameters"]), given
    values = {name: given.get(name, about.get("default")) for name, about in chosen["parameters"].items()}
    assert None not in values.values(), values
    parse(
        cli, shlex.split(chosen["command"].format(**{name: shlex.quote(value) for name, value in values.items()}))[3:]
    )


def builder() -> ModuleType:
    """docs/build.py."""
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("page", "words"), IN_BLOCKS, ids=[" ".join(words)[:80] for _, words in IN_BLOCKS])
def test_a_command_is_one_that_the_program_takes(page: str, words: list[str]) -> None:
    check(words)


def test_commands_and_options_in_the_text_are_there() -> None:
    assert len(IN_PROSE) > 10
    for page, words in IN_PROSE:
        try:
            check(words)
        except click.MissingParameter:  # `mlflow run` by itself is a name
            pass
        except (click.UsageError, AssertionError) as error:
            raise AssertionError(f"{page}: {' '.join(words)}: {error}") from error
    ours = {
        option
        for command in [*cli.commands.values(), mlflow.commands["run"]]
        for p in command.params
        for option in p.opts
    }
    for path in PAGES:
        for flag in re.findall(r"`(--[\w-]+)", prose(path)):
            assert flag in ours, f"{path.name}: {flag}"


def test_paths_in_the_text_are_there() -> None:
    for path in PAGES:
        for name in INLINE.findall(prose(path)):
            if re.fullmatch(r"(pneumonia|experiments|tests|docs|mlruns|\.ci)/[\w./-]*", name):
                assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_a_wrong_command_is_found_out() -> None:
    for wrong in (
        "uv run pneumonia evaluate --modell x",
        "uv run pneumonia scan",
        "uv run pneumonia train --sampler both",
        "uv run mlflow run . --env-manger local",
        "uv run mlflow run . -P trails=3",
        "uv run mlflow run . -e score",
        "uv run mlflow run . -P pruner=some",
        "uv run python -m experiments.nothing",
        'uv run pytest -m "slow or quick"',
        "uv run python docs/make.py",
        "cp pneumonia/nothing.conf /etc",
        "pnuemonia search",
    ):
        (words,) = commands(wrong)
        with pytest.raises((click.UsageError, AssertionError)):
            check(words)


EXPERIMENTS = [(page, bare(words)) for page, words in IN_BLOCKS + IN_PROSE if bare(words)[:2] == ["python", "-m"]]


@pytest.mark.slow  # torchvision alone takes seconds to import
def test_experiments_take_what_the_pages_give_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parsed(Exception):
        pass

    parse_args = argparse.ArgumentParser.parse_args

    def only_parse(self: argparse.ArgumentParser, words: Sequence[str] | None = None) -> None:
        parse_args(self, words)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    tried = [words[2:] for _, words in EXPERIMENTS if words[2].startswith("experiments.")]
    assert len(tried) > 8
    for name, *words in tried:
        monkeypatch.setattr("sys.argv", [name, *words])
        with pytest.raises(Parsed):
            importlib.import_module(name).main()


def test_every_block_has_a_language_and_holds_it() -> None:
    for block in blocks():
        assert block.language in ("sh", "python", "json", "text"), f"{block.page}: {block.text[:50]}"
    for block in blocks("json"):
        json.loads(block.text)


@pytest.fixture
def place(films: Path, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the films that the pages speak of, and an empty store."""
    (tmp_path / "data").symlink_to(films)
    one = next((films / "chest_xray" / "test").rglob("*.jpeg"))
    for folder in (tmp_path, tmp_path / "films", tmp_path / "more" / "deep"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(one, folder / "film.jpeg")
    tested = sorted((films / "chest_xray" / "test").rglob("*.jpeg"))
    rows = [f"{film},{film.parent.name},p{number},test" for number, film in enumerate(tested)]
    (tmp_path / "films.csv").write_text("\n".join(["path,label,patient,split", *rows]) + "\n")
    monkeypatch.setenv("PNEUMONIA_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def register(tracker: Tracker, copy_trained: Callable[..., Record]) -> Callable[..., None]:
    """Registers the tiny model: `register(bias=3.0)`."""

    def make(bias: float) -> None:
        record = copy_trained(f"bias {bias}", bias=bias, register="pneumonia", role="final")
        record.finish("COMPLETE")
        tracker.send(record)
        registry.enter(tracker, record)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.page)
def test_python_runs(
    block: Block, place: Path, register: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    register(bias=0.0)
    exec(compile(block.text, block.page, "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert "film.jpeg" in said
    assert "probability" in said


@pytest.mark.slow
def test_quick_commands_do_what_the_pages_say(place: Path, register: Callable[..., None]) -> None:
    for bias in (0.0, 3.0, 4.0):  # the first is the champion
        register(bias=bias)
    quick = {tuple(bare(words)[1:]) for _, words in IN_BLOCKS if bare(words)[0] == "pneumonia"}
    quick = {
        words for words in quick if words[0] in QUICK and not any("RUN_ID" in word or word == "--url" for word in words)
    }
    assert {words[0] for words in quick} >= {"eda", "evaluate", "compare", "predict", "promote"}
    for words in sorted(quick, key=lambda words: ("--back" in words, words)):  # to where it was before
        done = CliRunner().invoke(cli, words)  # in this process: the imports would take most of the time
        assert done.exit_code == 0, f"{words}: {done.output}"


def test_the_table_of_parameters_has_each_of_the_entry_point() -> None:
    page = (ROOT / "docs" / "guide" / "search.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == sorted(ENTRIES["main"]["parameters"])


def test_the_readme_is_read_in_three_minutes() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1400
    for row in re.findall(r"^\|(.*)\|$", text, re.MULTILINE):
        assert all(len(cell.split()) <= 20 for cell in row.split("|")), row
    parts = (ROOT / "docs" / "decisions.md").read_text().split("\n## ")[1:]
    assert len(parts) >= 5
    assert all(len(part.split()) <= 200 for part in parts)


def test_numbers_have_their_leading_zero() -> None:
    for path in PAGES:
        assert not re.findall(r"(?<![\w./])\.\d+", INLINE.sub("", prose(path))), path.name


def test_links_lead_somewhere_and_every_page_is_in_the_menu() -> None:
    build = builder()
    pages = {**build.gather(), **build.module_pages(), "reference/commands.md": build.commands_page()}
    build.check_menu(set(pages))
    assert b"](project/experiments/LOG.md)" in pages["index.md"]
    with pytest.raises(build.DocumentationError, match="orphan"):
        build.check_menu({*pages, "orphan.md"})


def test_every_module_and_command_is_listed() -> None:
    build = builder()
    listed = build.module_pages()["reference/index.md"].decode()
    for path in (ROOT / "pneumonia").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        assert f"({name}.md)" in listed, name
    shown = build.commands_page().decode()
    for name, command in cli.commands.items():
        assert f"## {name}\n" in shown
        assert all(param.opts[0] in shown for param in command.params if isinstance(param, click.Option))


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    build = builder()
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(
        "[there](docs/page.md#part) and `[code](nothing.md)`\n\n```\n[code](nothing.md)\n```\n"
    )
    page = tmp_path / "docs" / "page.md"
    page.write_text("[back](../README.md), [out](https://example.org)")
    assert (
        build.gather(tmp_path)["project/README.md"]
        .decode()
        .startswith("[there](../page.md#part) and `[code](nothing.md)`")
    )
    assert build.gather(tmp_path)["page.md"] == b"[back](project/README.md), [out](https://example.org)"
    page.write_text("[back](../READ.md)")
    with pytest.raises(build.DocumentationError, match=r"docs/page\.md: \.\./READ\.md"):
        build.gather(tmp_path)


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<img src="gone.png">',
        '<pre class="mermaid">graph</pre>',
        '<p style="background: url(https://example.org/a.png)">',
    ],
)
def test_what_is_loaded_from_elsewhere_or_missing_ends_the_build(html: str, tmp_path: Path) -> None:
    build = builder()
    (tmp_path / "a.css").write_text("body { color: red }")
    page = tmp_path / "index.html"
    page.write_text('<link rel="stylesheet" href="a.css"><a href="https://example.org">out</a><img src="data:,">')
    build.check_site(tmp_path)
    page.write_text(html)
    with pytest.raises(build.DocumentationError, match="loads"):
        build.check_site(tmp_path)
