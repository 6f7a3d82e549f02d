"""MLflow's own pages, in a real browser, of what commands logged."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.browser import CHROMIUM, DRIVER, Browser
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from pneumonia.tracking.ui import compare_link
from tests.command import Lab, until
from tests.conftest import TrackingServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="Chromium and its driver are not installed"),
]


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser(width=1500, height=1400) as browser:
        yield browser


def test_comparing_two_runs_shows_what_differs_and_how_good_each_is(
    server: TrackingServer, copy_trained: Callable[..., Record], browser: Browser
) -> None:
    tracker = Tracker(server.uri)
    ids = []
    for name, lr in (("trial 0", 0.003), ("trial 1", 0.004)):
        record = copy_trained(name.replace(" ", "-"), role="trial", pictures=True)
        record.update(name=name)
        record.add_params({"lr": lr})
        record.finish("COMPLETE")
        tracker.send(record)
        ids.append(sent(record)["run_id"])

    browser.open(compare_link(server.uri, tracker.experiment_id("pneumonia"), ids))

    browser.see("Comparing 2 Runs", "trial 0", "trial 1", "0.003", "0.004", "train/loss", "val/loss", "val/auc")


# The table of runs as shown, as [{column: text}]
ROWS = """
const rows = {};
for (const row of document.querySelectorAll('.ag-row[row-index]')) {
    const cells = rows[row.getAttribute('row-index')] ??= {};
    for (const cell of row.querySelectorAll('.ag-cell[col-id]')) {
        cells[cell.getAttribute('col-id')] = cell.innerText.trim().split('\\n').pop();
    }
}
const found = Object.keys(rows).sort((a, b) => a - b).map(index => rows[index]);
return found.length && found.every(cells => 'attributes.`Run Name`' in cells) ? found : null;
"""
# Images of the page that are there, by MLflow's addresses of pictures
PICTURES = "return [...document.querySelectorAll('img')].filter(i => i.src.includes('films') && i.naturalWidth).length"
DRAWN = "return [...document.querySelectorAll('.js-plotly-plot')].filter(p => p.data && p.data.length > 1).length"


def test_from_the_search_s_last_lines_to_its_trials_curves_and_films(
    tmp_path: Path, films: Path, browser: Browser
) -> None:
    folder = tmp_path / "lab"
    lab = Lab(folder, films, tracking=f"sqlite:///{folder / 'mlflow.db'}")
    try:
        search = lab.search(trials=2, workers=1)
        assert search.end(300) == 0, search.text()[-3000:]
        (link,) = re.findall(r"http://\S+viewStateShareKey=\w+", search.text())
        assert "uv run pneumonia ui" in search.text()
        serving = lab.start("ui", "--port", "0")
        until(lambda: serving.text().count("viewStateShareKey") == 3, "the links of ui", seconds=300)
        links = dict(re.findall(r"^(\w+) +(http://\S+)", serving.text(), flags=re.MULTILINE))
        address = links["trials"].split("/#/")[0]
        trials = {run.info.run_name: run.data for run in lab.runs() if "lr" in run.data.params}
        assert set(trials) == {"trial 0", "trial 1", "final"}

        for each in (link.replace("http://127.0.0.1:5000", address), links["trials"]):
            browser.open(each)
            browser.see(*trials, "trial.state", "val/objective", "lr", "width")
            table = {row["attributes.`Run Name`"]: row for row in browser.until(ROWS)}
            for name, data in trials.items():
                row = table[name]
                assert row["tags.`trial.state`"] == "COMPLETE"
                for kind, values in (("metrics", data.metrics), ("params", data.params)):
                    for key in ("val/objective", "val/auc", "val/log_loss") if kind == "metrics" else ("lr", "width"):
                        assert float(row[f"{kind}.`{key}`"]) == pytest.approx(float(values[key]), rel=1e-9), (name, key)
            assert [float(row["metrics.`val/objective`"]) for row in table.values()] == sorted(
                data.metrics["val/objective"] for data in trials.values()
            )
        assert "Model training" in browser.text()

        browser.open(links["curves"])
        browser.see("val/objective", "val/auc", "val/loss", "train/loss")
        assert browser.until(f"{DRAWN} >= 2")  # the others wait for being scrolled to

        browser.open(links["films"])
        browser.see("films/5_positive")
        assert browser.until(PICTURES)
        assert serving.process.poll() is None
    finally:
        lab.stop()
