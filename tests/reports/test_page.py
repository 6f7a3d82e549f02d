"""A report page holds everything itself and takes no text for markup."""

import base64
import re

from matplotlib.figure import Figure

from pneumonia.reports import page


def a_page(name: str) -> str:
    drawn = Figure(figsize=(1, 1))
    sections = [
        page.Section("Counts", [page.table(["class", "films"], [(name, 1200), ("b", 3)]), page.bullets([name])]),
        page.Section("Figures", [page.figure(drawn, alt="axes")]),
        page.Section("Pictures", [page.row(page.picture(b"\x89PNG", alt=name, caption=name))]),
    ]
    return page.page("A title", sections, intro=page.text(name), footer=name)


def test_text_is_escaped_everywhere() -> None:
    html = a_page('<script>alert("x")</script>')
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 6  # table, bullet, alt, caption, intro, footer


def test_nothing_is_loaded_from_outside() -> None:
    html = a_page("film")
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    assert "default-src 'none'" in html  # and a browser would refuse it
    encoded = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert [base64.b64decode(one)[:4] for one in encoded] == [b"\x89PNG"] * 2


def test_sections_are_linked_from_the_top() -> None:
    html = a_page("film")
    assert re.findall(r'<a href="#(\d)">(\w+)</a>', html) == [("1", "Counts"), ("2", "Figures"), ("3", "Pictures")]
    assert re.findall(r'<section id="(\d)">', html) == ["1", "2", "3"]


def test_columns_of_numbers_are_flush_right() -> None:
    html = str(page.table(["name", "n", "share"], [("a", 1200, 0.5), ("1b", 3, 0.25)]))
    assert re.findall(r'<th class="number">(\w+)</th>', html) == ["n", "share"]
    assert '<td class="number">1,200</td>' in html
    assert '<td class="number">0.500</td>' in html


def test_an_empty_table_has_its_header() -> None:
    assert "<th>name</th>" in str(page.table(["name"], []))
