"""A self-contained HTML page: text, tables and figures in sections, with nothing loaded from outside.

Every function takes plain text, which is escaped, and returns a piece of HTML for `page`.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

_TEMPLATES = jinja2.Environment(
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    loader=jinja2.DictLoader(
        {
            "page": """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1180px; margin: 0 auto;
       padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid #ccc; padding-bottom: .2rem; }
nav a { margin-right: 1rem; }
a { color: #0072B2; }
p { max-width: 75ch; }
ul { max-width: 75ch; padding-left: 1.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin: .7rem 0; }
caption { text-align: left; color: #555; padding-bottom: .3rem; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
td.number, th.number { text-align: right; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: .5rem 0; display: table; }
figure img { max-width: 545px; height: auto; display: block; }
figcaption { display: table-caption; caption-side: bottom; color: #555; font-size: .87rem; overflow-wrap: anywhere; }
footer { margin-top: 3rem; color: #666; font-size: .87rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{{ intro }}
<nav>{% for section in sections %}<a href="#{{ loop.index }}">{{ section.title }}</a> {% endfor %}</nav>
{% for section in sections %}
<section id="{{ loop.index }}">
<h2>{{ section.title }}</h2>
{% for part in section.parts %}
{{ part }}
{% endfor %}
</section>
{% endfor %}
<footer>{{ footer }}</footer>
</body>
</html>
""",
            "table": """<div class="wide"><table>
{% if caption %}<caption>{{ caption }}</caption>{% endif %}
<thead><tr>
{% for name in header %}<th{% if loop.index0 in numbers %} class="number"{% endif %}>{{ name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for cell in row %}<td{% if loop.index0 in numbers %} class="number"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>""",
            "picture": """<figure><img src="data:image/png;base64,{{ png }}" alt="{{ alt }}">
{% if caption %}<figcaption>{{ caption }}</figcaption>{% endif %}</figure>""",
        }
    ),
)


@dataclass(frozen=True)
class Section:
    """A heading and its content."""

    title: str
    parts: Sequence[Markup]


def page(title: str, sections: Sequence[Section], *, intro: Markup, footer: str = "") -> str:
    """The whole page as HTML, with links to its sections at the top."""
    return _TEMPLATES.get_template("page").render(title=title, sections=sections, intro=intro, footer=footer)


def text(*paragraphs: str) -> Markup:
    return Markup("\n").join(Markup("<p>{}</p>").format(paragraph) for paragraph in paragraphs)


def bullets(items: Iterable[str]) -> Markup:
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(item) for item in items))


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> Markup:
    """A table; columns in which every cell is a number, or a text that begins like one, are set flush right."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    numbers = {column for column in range(len(header)) if cells and all(_is_number(row[column]) for row in cells)}
    shown = _TEMPLATES.get_template("table").render(header=header, rows=cells, numbers=numbers, caption=caption)
    return Markup(shown)  # noqa: S704  # the template escapes


def figure(drawn: Figure, *, alt: str) -> Markup:
    """A matplotlib figure as a PNG in the page. `alt` says in words what it shows."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=100)
    return picture(file.getvalue(), alt=alt)


def picture(png: bytes, *, alt: str, caption: str = "") -> Markup:
    encoded = base64.b64encode(png).decode("ascii")
    shown = _TEMPLATES.get_template("picture").render(png=encoded, alt=alt, caption=caption)
    return Markup(shown)  # noqa: S704  # the template escapes


def row(*parts: Markup) -> Markup:
    """Parts side by side, as many as the window has room for."""
    return Markup('<div class="row">{}</div>').format(Markup("\n").join(parts))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "+-." or cell in ("", "none")
