"""Makes the pictures of the README, from runs of this commit: Chromium looks at MLflow's own UI.

    python -m experiments.pictures --data DIR                         all of them, into experiments/pictures
    python -m experiments.pictures --data synthetic --only trials --out FOLDER --search "--trials 3 --epochs 3"

It searches DIR in a store of its own, evaluates the champion (which opens the test films once, for this store), starts
`pneumonia ui` and photographs the view of trials, the page that compares the final training with the second best
trial, the films, and the evaluation's report; it starts `pneumonia page` and photographs it with films that the program
draws, whatever DIR is; and it runs the notebook on synthetic films, for what that draws. What stands in the store is
deleted unless --keep FOLDER says where to keep it; a search that stands there is not repeated.

Cost: the search's time and two minutes. Result: seven PNG files, some 600 KB in all.
"""

import argparse
import base64
import io
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from mlflow import MlflowClient
from nbclient import NotebookClient
from PIL import Image, ImageChops

from experiments.browser import Browser
from pneumonia import synthetic
from pneumonia.runtime.signals import leave_quickly
from pneumonia.tracking.ui import compare_link, view_link

ROOT = Path(__file__).parent.parent
NAMES = ("trials", "compare", "films", "evaluation", "page", "notebook")
COLOURS = 200  # of a picture; the UI has few, and a README is loaded often
NOTEBOOK = (("eda-films",), ("imbalance-batches", "metrics-confusion", "metrics-roc"), ("metrics-heatmaps",))  # cells
NOTEBOOK_WIDTH = 960  # pixels


def run(*words: str, place: Path) -> None:
    """A command of ours, with its own home and store in `place`.

    Raises:
        CalledProcessError: it failed.
    """
    subprocess.run([sys.executable, "-m", "pneumonia", *words], cwd=place, env=environment(place), check=True)


def environment(place: Path) -> dict[str, str]:
    ours = {"PNEUMONIA_HOME": str(place / "home"), "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}"}
    return {**os.environ, **ours, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@contextmanager
def ui(place: Path) -> Iterator[str]:
    """The address of `pneumonia ui` on the store in `place`."""
    words = [sys.executable, "-m", "pneumonia", "ui", "--port", "0"]
    with subprocess.Popen(words, cwd=place, env=environment(place), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[1].split("/#/")[0]
        finally:
            process.terminate()


def photograph_page(place: Path, out: Path) -> None:
    """The page to try the champion of the store in `place`, with drawn films: on a screen, and on a phone, dark."""
    (name,) = (model.name for model in MlflowClient(f"sqlite:///{place / 'mlflow.db'}").search_registered_models())
    drawn = synthetic.write(place / "drawn", seed=7, train=8, test=12)
    films = sorted((drawn / "chest_xray" / "test").rglob("*.jpeg"))[::-1][:7]
    text = place / "notes.txt"
    text.write_text("no film\n")
    words = [sys.executable, "-m", "pneumonia", "page", "--port", "0", "--model", f"models:/{name}@champion"]
    with (
        subprocess.Popen(words, cwd=place, env=environment(place), stdout=subprocess.PIPE, text=True) as process,
        Browser(width=1280, height=900) as browser,
    ):
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[1]
            for file, width, height, dark in (("page", 1280, 860, False), ("page-phone", 400, 800, True)):
                browser.look_like(width=width, height=height, dark=dark)
                browser.open(address)
                browser.see("Model: ")
                browser.choose("#files", *films, text)
                browser.see("8 of 8 films done")
                browser.settle()
                save(browser.picture(), out / f"{file}.png")
        finally:
            process.terminate()


def photograph(place: Path, out: Path, only: list[str]) -> None:
    """The pictures of what stands in the store in `place`."""
    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pneumonia")
    assert experiment is not None
    experiment_id = experiment.experiment_id
    (parent,) = client.search_runs([experiment_id], "tags.role = 'search'", max_results=1)
    (final,) = client.search_runs([experiment_id], "tags.role = 'final'", max_results=1)
    best = client.search_runs([experiment_id], "tags.role = 'trial'", order_by=["metrics.`val/objective` ASC"])
    other = best[min(1, len(best) - 1)]
    (evaluation,) = client.search_runs([experiment_id], "tags.role = 'evaluate'", max_results=1)
    with ui(place) as at, Browser(width=1240, height=900) as browser:
        browser.open(at)
        browser.run(
            "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')"
        )  # a chat, over a third of the page
        browser.run("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        if "trials" in only:
            browser.size(1240, 330 + 32 * (len(best) + 1))
            browser.open(view_link(at, experiment_id, parent.info.run_id))
            browser.see("final", "trial.state", "val/objective")
            browser.click("Hide banner")
            browser.settle()
            save(browser.picture(), out / "trials.png")
        if "compare" in only:
            browser.size(1010, 2100)
            browser.open(compare_link(at, experiment_id, [final.info.run_id, other.info.run_id]))
            browser.see("Comparing 2 Runs", "val/auc")
            browser.settle()
            save(browser.picture(), out / "compare.png")
        if "films" in only:
            browser.size(1500, 900)
            browser.open(view_link(at, experiment_id, "films"))
            browser.see("films/5_positive")
            browser.click("Hide banner")
            browser.until("return [...document.querySelectorAll('img')].filter(i => i.naturalWidth > 100).length > 7")
            browser.settle()
            save(browser.picture(), out / "films.png")
        if "evaluation" in only:
            page = client.download_artifacts(evaluation.info.run_id, "evaluation.html", str(place))
            browser.size(920, 1930)
            browser.open(Path(page).as_uri())
            browser.settle()
            save(browser.picture(), out / "evaluation.png")


def draw_notebook(path: Path) -> None:
    """What the notebook's cells in `NOTEBOOK` draw, row under row."""
    notebook = nbformat.read(ROOT / "experiments" / "pneumonia.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(ROOT)}}).execute()
    drawn = {cell["id"]: drawing(cell) for row in NOTEBOOK for cell in notebook.cells if cell["id"] in row}
    rows = [beside([drawn[name] for name in row], NOTEBOOK_WIDTH) for row in NOTEBOOK]
    whole = Image.new("RGB", (NOTEBOOK_WIDTH, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height
    save(whole, path)


def drawing(cell: nbformat.NotebookNode) -> Image.Image:
    """The first figure of a cell that ran, without its margins."""
    found = next(output["data"]["image/png"] for output in cell["outputs"] if "image/png" in output.get("data", {}))
    figure = Image.open(io.BytesIO(base64.b64decode(found))).convert("RGB")
    drawn = ImageChops.difference(figure, Image.new("RGB", figure.size, "white")).getbbox()
    assert drawn is not None
    left, top, right, bottom = drawn
    return figure.crop((left - 4, top - 4, right + 4, bottom + 4))


def beside(pictures: list[Image.Image], width: int) -> Image.Image:
    """Pictures side by side, of one height, in `width` pixels."""
    height = width / sum(picture.width / picture.height for picture in pictures)
    row = Image.new("RGB", (width, round(height)), "white")
    left = 0.0
    for picture in pictures:
        scaled = picture.resize(
            (round(picture.width * height / picture.height), round(height)), Image.Resampling.LANCZOS
        )
        row.paste(scaled, (round(left), 0))
        left += scaled.width
    return row


def save(picture: Image.Image, path: Path) -> None:
    """A PNG of few colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}  {path.stat().st_size / 1000:.0f} KB")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic", help="films, as for `pneumonia search`")
    parser.add_argument("--search", default="", help="further flags of the search, in one word")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "pictures")
    parser.add_argument("--keep", type=Path, help="a folder for the store and what the program keeps")
    given = parser.parse_args()
    leave_quickly()
    if set(given.only) - {"notebook"}:
        data = given.data if given.data == "synthetic" else str(Path(given.data).absolute())
        with tempfile.TemporaryDirectory(prefix="pictures-") as scratch:
            place = (given.keep or Path(scratch)).absolute()
            place.mkdir(parents=True, exist_ok=True)
            if not (place / "mlflow.db").exists():
                run("search", "--data", data, *shlex.split(given.search), place=place)
                run("evaluate", "--data", data, place=place)
            if set(given.only) - {"page", "notebook"}:
                photograph(place, given.out, given.only)
            if "page" in given.only:
                photograph_page(place, given.out)
    if "notebook" in given.only:
        draw_notebook(given.out / "notebook.png")


if __name__ == "__main__":
    main()
