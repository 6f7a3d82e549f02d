"""MLflow's own pages, of what commands logged, and the page to try a model, in a real browser."""

import csv
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.browser import CHROMIUM, DRIVER, ENTER, RIGHT, TAB, Browser
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from pneumonia.tracking.ui import compare_link
from tests.command import Lab, until
from tests.conftest import TrackingServer
from tests.serving.test_page_server import DICOM, JPEG, PNG, expected, model, served
from tests.system.test_serving import nginx

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="Chromium and its driver are not installed"),
]


__all__ = ["model"]  # a fixture


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


# --- the page to try a model

CARDS = "return [...document.querySelectorAll('.film')].map(card => card.innerText)"
NAMES = "return [...document.querySelectorAll('.film h2')].map(name => name.textContent)"
# Whether the browser itself would open the files that are dragged, and whether the page shows that it takes them
DRAG = """
const dragged = new DataTransfer();
for (const [name, base64] of arguments[1]) {
    dragged.items.add(new File([Uint8Array.from(atob(base64), one => one.charCodeAt(0))], name));
}
const event = new DragEvent(arguments[0], {dataTransfer: dragged, bubbles: true, cancelable: true});
return [document.body.dispatchEvent(event), document.body.classList.contains('over')];
"""
# What JavaScript that is not the page's own would do, and a film's name as HTML
NASTY = '<img src=x onerror="document.title=1">.png'


@pytest.fixture
def page(model: Any) -> Iterator[str]:
    with served(model) as url:
        yield url


def files(folder: Path, **contents: bytes) -> list[Path]:
    """Files of these names (`_` for the dot before the suffix)."""
    folder.mkdir(exist_ok=True)
    made = []
    for name, content in contents.items():
        made.append(folder / name.replace("_", "."))
        made[-1].write_bytes(content)
    return made


def test_the_page_shows_what_the_model_says_of_each_film(
    page: str, model: Any, browser: Browser, tmp_path: Path
) -> None:
    films = files(tmp_path / "films", a_jpeg=JPEG, b_png=PNG, c_dcm=DICOM, d_txt=b"no film")
    browser.open(page)
    browser.see("For research. Not a medical device.", "Model: pneumonia version 3")
    browser.choose("#files", *films)
    browser.see("4 of 4 films done")
    cards = browser.run(CARDS)
    for card, said in zip(cards, expected(model, JPEG, PNG, DICOM)["predictions"], strict=False):
        assert said["label"] in card
        assert f"Probability {said['probability']:.3f}, threshold {said['threshold']:.3f}" in card
        assert f"{'Yes' if said['familiar'] else 'No'} (familiarity {said['familiarity']:.3f})" in card
        assert f"Warning: {said['warning']}." in card or not said["warning"]
    assert "Not scored: the file is text, not a JPEG, PNG or DICOM film." in cards[3]
    assert "1 not scored" in browser.text()
    assert browser.run("return document.querySelector('#model a').href") == (
        "http://127.0.0.1:5000/#/models/pneumonia/versions/3"
    )
    # A heatmap for each film, in its aspect, and over it the film where the browser can draw that.
    browser.settle()
    sizes = "return [...document.querySelectorAll('.picture')].map(p => [...p.children].map(i => i.naturalWidth))"
    assert browser.run(sizes) == [[400, 400], [400, 400], [80]]
    assert ["Browsers cannot draw this film" in card for card in browser.run(CARDS)] == [False, False, True, False]
    opacity = "return getComputedStyle(document.querySelector('.picture .plain')).opacity"
    assert float(browser.run(opacity)) == pytest.approx(0.3)
    move = "const s = document.getElementById('strength'); s.value = 100; s.dispatchEvent(new Event('input'))"
    browser.run(move)
    assert float(browser.run(opacity)) == 0


def test_films_can_be_dropped_on_the_page(page: str, browser: Browser) -> None:
    films = [[name, b64encode(data).decode()] for name, data in (("a.jpeg", JPEG), ("b.txt", b"no film"))]
    browser.open(page)
    browser.see("Model: pneumonia version 3")
    assert browser.run(DRAG, "dragover", films) == [False, True]
    assert browser.run(DRAG, "dragleave", films) == [False, False]
    assert browser.run(DRAG, "drop", films) == [False, False]
    browser.see("2 of 2 films done")
    assert browser.run(NAMES) == ["a.jpeg", "b.txt"]
    assert "Not scored: the file is text" in browser.run(CARDS)[1]


def test_the_page_s_table_is_harmless_to_a_spreadsheet_and_a_name_to_the_page(
    page: str, browser: Browser, tmp_path: Path
) -> None:
    films = files(tmp_path / "films", **{"=1+1_png": PNG, '@a, "b"_txt': b"no film", NASTY.replace(".", "_"): PNG})
    browser.develop(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path), "eventsEnabled": False}
    )
    browser.open(page)
    browser.choose("#files", *films)
    browser.see("3 of 3 films done")
    assert browser.run(NAMES) == [film.name for film in films]
    assert browser.run("return document.title") == "Pneumonia on chest films"
    browser.click("Download CSV")
    table = tmp_path / "predictions.csv"
    until(lambda: table.exists() and table.stat().st_size > 0, "the table")
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["'=1+1.png", '\'@a, "b".txt', NASTY]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert 0 <= float(rows[0]["probability"]) <= 1
    assert rows[0]["familiar"] in ("true", "false")
    assert {row["model"] for row in rows} == {"pneumonia version 3"}


def test_two_hundred_films_are_sent_few_at_a_time(
    page: str, model: Any, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    predict = model.predict
    monkeypatch.setattr(
        model, "predict", lambda table, params: asked.append(len(table)) or predict(table, params=params)
    )
    films = files(tmp_path / "films", **{f"{n:03}_png": PNG for n in range(200)})
    browser.open(page)
    browser.choose("#files", *films)
    browser.see("200 of 200 films done")
    assert browser.run(NAMES) == [f"{n:03}.png" for n in range(200)]
    assert sum(asked) == 200
    assert max(asked) == 8
    browser.click("Clear")
    assert browser.run(CARDS) == []


class Before:
    """The model as a version of before answers: with three columns, and 400 where a film is bad."""

    def __init__(self, model: Any) -> None:
        self.model, self.metadata = model, model.metadata

    def predict(self, table: Any, params: Any = None) -> Any:
        params = {name: value for name, value in (params or {}).items() if name == "explain"}
        columns = ["probability", "label", "threshold", *(["heatmap"] if params.get("explain") else [])]
        return self.model.predict(table, params=params)[columns]


def test_a_version_of_before_answers_too(model: Any, browser: Browser, tmp_path: Path) -> None:
    films = files(tmp_path / "films", a_jpeg=JPEG, d_txt=b"no film", c_dcm=DICOM)
    with served(Before(model)) as url:
        browser.open(url)
        browser.choose("#files", *films)
        browser.see("3 of 3 films done")
    good, bad, other = browser.run(CARDS)
    assert "Probability" in good
    assert "Probability" in other
    assert "knows" not in good
    assert "Not scored: the file is text, not a JPEG, PNG or DICOM film." in bad


def test_films_that_wait_while_the_server_is_away_can_be_sent_again(
    model: Any, browser: Browser, tmp_path: Path
) -> None:
    with served(model) as url:
        browser.open(url)
        browser.see("Model: pneumonia")
        # As where the server, or the way to it, is gone.
        browser.run("window.there = window.fetch; window.fetch = () => Promise.reject(new TypeError('gone'))")
        browser.choose("#files", *files(tmp_path / "films", a_jpeg=JPEG, b_png=PNG))
        browser.see("The server does not answer. 0 of 2 films done")
        browser.run("window.fetch = window.there")
        browser.click("Try again")
        browser.see("2 of 2 films done")


def test_the_page_is_used_by_keyboard_and_heard_by_a_screen_reader(page: str, browser: Browser, tmp_path: Path) -> None:
    browser.open(page)
    browser.see("Model: pneumonia")
    browser.choose("#files", *files(tmp_path / "films", a_jpeg=JPEG, b_png=PNG))
    browser.see("2 of 2 films done")
    browser.run("document.activeElement.blur()")
    reached = []
    for _ in range(5):
        browser.press(TAB)
        reached.append(browser.run("return document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["A", "files", "strength", "download", "clear"]
    browser.run("document.getElementById('strength').focus()")
    browser.press(RIGHT)
    assert browser.run("return document.getElementById('strength').value") == "71"
    nodes = browser.develop("Accessibility.getFullAXTree", {})["nodes"]
    heard = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]}
    assert {
        ("heading", "Pneumonia on chest films"),
        ("heading", "a.jpeg"),
        ("button", "Download CSV"),
        ("button", "Clear"),
        ("slider", "Heatmap"),
        ("image", "the film a.jpeg with its heatmap"),
        ("list", "Films"),
    } <= heard
    assert [name for role, name in heard if role == "button" and name.startswith("Choose films")]
    assert browser.run("return document.getElementById('status').getAttribute('role')") == "status"
    browser.run("document.getElementById('clear').focus()")
    browser.press(ENTER)
    assert browser.run(CARDS) == []
    assert browser.run("return document.activeElement.id") == "files"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 400, 1280])
def test_the_page_fits_a_phone_and_is_read_in_light_and_dark(
    page: str, browser: Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    long = "a_very_long_name_without_any_space_in_it_" * 4
    browser.look_like(width=width, height=800, dark=dark)
    browser.open(page)
    browser.see("Model: pneumonia")
    browser.choose("#files", *files(tmp_path / "films", a_jpeg=JPEG, b_txt=b"no film"))
    browser.see("2 of 2 films done")
    browser.run("document.querySelector('.film h2').textContent = arguments[0]", long)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    # WCAG 2.2, 1.4.3: 4.5 to 1 between text and what is behind it
    for selector in ("#status", "#model", "#formats", ".verdict", ".error", "#drop label", "#clear", "footer p"):
        assert browser.run(CONTRAST, selector) >= 4.5, selector


CONTRAST = """
const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const one = document.querySelector(arguments[0]);
let behind = one;
while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)' && behind.parentElement) {
    behind = behind.parentElement;
}
const [a, b] = [getComputedStyle(one).color, getComputedStyle(behind).backgroundColor].map(light).sort((x, y) => y - x);
return (a + 0.05) / (b + 0.05);
"""


def test_behind_nginx_the_same_page_asks_the_scoring_server(model: Any, browser: Browser, tmp_path: Path) -> None:
    # The page's own server stands in for MLflow's, which answers the same and takes longer to start.
    with served(model, names=["alone"]) as back, nginx(back.removeprefix("http://"), tmp_path / "nginx") as (url, _):
        browser.open(url)
        browser.see("Which version of the model answers, this server does not say.")
        browser.choose("#files", *files(tmp_path / "films", a_jpeg=JPEG, c_dcm=DICOM, d_txt=b"no film"))
        browser.see("3 of 3 films done")
    first = expected(model, JPEG)["predictions"][0]
    cards = browser.run(CARDS)
    assert f"Probability {first['probability']:.3f}" in cards[0]
    assert "Not scored: the file is text" in cards[2]


FORM = '--x\r\nContent-Disposition: form-data; name="film"; filename="film"\r\n\r\nno film\r\n--x--\r\n'
SEND = """
const request = new XMLHttpRequest();
request.open('POST', arguments[0], false);
request.setRequestHeader('Content-Type', 'multipart/form-data; boundary=x'); // needs no leave, as other types do
try { request.send(arguments[1]); } catch { return 'blocked'; }
return request.responseText;
"""


def test_a_page_of_elsewhere_has_no_film_scored(
    page: str, browser: Browser, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    predict = model.predict
    monkeypatch.setattr(
        model, "predict", lambda table, params: asked.append(len(table)) or predict(table, params=params)
    )
    browser.develop("Page.setBypassCSP", {"enabled": True})  # our page's own policy; an attacker's has none
    with served(model) as elsewhere:  # another port is another origin
        browser.open(elsewhere)
        assert browser.run(SEND, f"{page}/invocations", FORM) == "blocked"
    assert asked == []
    browser.open(page)
    assert "record 0: the file is text" in browser.run(SEND, f"{page}/invocations", FORM)
    assert asked == [1]
