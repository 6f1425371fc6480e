"""All lessons as one page of HTML that needs nothing else: no network, no script, no file beside it.

Derivations become MathML, code is read from the lessons' own files, pictures are inside the page.
"""

import inspect
import io
import re
import struct
import tokenize
from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape
from itertools import accumulate
from keyword import iskeyword
from pathlib import Path
from typing import Any

from npvae import lessons
from npvae.checkpoint import write_atomically
from npvae.errors import InputError
from npvae.lessons.mathml import mathml
from npvae.lessons.outcome import Number, Outcome
from npvae.lessons.style import STYLE

TITLE = "Autoencoders and variational autoencoders"


def write_page(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write index.html into the folder that the outcomes were saved in, and return its path.

    InputError if a picture is not there. ValueError if a derivation has a formula that MathML cannot be made of.
    """
    path = folder / "index.html"
    write_atomically(path, _page(outcomes, folder).encode())
    return path


def _page(outcomes: Sequence[Outcome], folder: Path) -> str:
    fails = [one for one in outcomes if not one.holds]
    said = f"{len(outcomes) - len(fails)} of {len(outcomes)} claims hold"
    names = ", ".join(f'<a href="#{one.name}">{escape(one.title)}</a>' for one in fails)
    contents = "\n".join(
        f'<li><a href="#{one.name}"><span>{number}</span><span>{escape(one.title)}</span>'
        f"{_verdict('span', one.holds, '✓' if one.holds else '✗ does not hold')}</a></li>"
        for number, one in enumerate(outcomes, 1)
    )
    articles = "\n".join(_article(number, one, folder) for number, one in enumerate(outcomes, 1))
    quick = all(one.quick for one in outcomes)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{TITLE}</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>{TITLE}</h1>
<p>A lecture in claims. Each is stated, derived, shown in a few lines of code, measured and drawn.</p>
{_verdict("p", not fails, said + "." + (f" These do not: {names}." if fails else ""), "summary")}
<nav aria-label="Lessons">
<ol>
{contents}
</ol>
</nav>
</header>
<main>
{articles}
</main>
<footer>
<p>Made by <code>npvae lesson all{" --quick" * quick}</code> in {sum(one.seconds for one in outcomes):.0f} seconds.</p>
</footer>
</body>
</html>
"""


def _article(number: int, outcome: Outcome, folder: Path) -> str:
    """A lesson, from its claim to its picture."""
    try:
        derivation = _derivation(lessons.describe(outcome.name)[2])
    except ValueError as error:
        raise ValueError(f"the derivation of {outcome.name}: {error}") from None
    code = "\n".join(_code(function) for function in lessons.module(outcome.name).SHOWN)
    rows = "\n".join(_row(one) for one in outcome.numbers)
    alt = escape(outcome.findings.alt)
    return f"""<article id="{outcome.name}">
<header>
<p class="place">{number} · {outcome.name}</p>
<h2><a href="#{outcome.name}">{escape(outcome.title)}</a></h2>
{_verdict("p", outcome.holds, "✓ The claim holds" if outcome.holds else "✗ The claim does not hold", "verdict")}
</header>
<p class="claim">{_prose(outcome.claim)}</p>
<h3>Derivation</h3>
{derivation}
<h3>In code</h3>
{code}
<h3>Measured</h3>
<div class="table">
<table>
<thead><tr><th scope="col">number</th><th scope="col">measured</th><th scope="col">tolerance</th><td></td></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
<p class="where">{"Quick run" if outcome.quick else "Full run"}, {outcome.seconds:.1f} seconds</p>
<h3>In a picture</h3>
<figure>
<div class="picture"><img {_picture(folder / f"{outcome.name}.png")} alt="{alt}"></div>
<figcaption aria-hidden="true">{alt}</figcaption>
</figure>
</article>"""


def _verdict(element: str, holds: bool | None, content: str, kind: str = "") -> str:
    """Something in the colour of a verdict; content is HTML."""
    verdict = {True: "holds", False: "fails", None: "reported"}[holds]
    return f'<{element} class="{f"{kind} {verdict}".lstrip()}">{content}</{element}>'


def _row(number: Number) -> str:
    cells = "".join(f"<td>{escape(text)}</td>" for text in (number.measured, number.tolerance))
    return f'<tr><th scope="row">{escape(number.name)}</th>{cells}{_verdict("td", number.holds, number.verdict)}</tr>'


def _derivation(text: str) -> str:
    """Paragraphs between blank lines, formulas between $$."""
    blocks, parts = [], text.split("$$")
    if len(parts) % 2 == 0:
        raise ValueError("a $$ has no other")
    for place, part in enumerate(parts):
        if place % 2:
            blocks.append(f'<div class="display">{mathml(part, display=True)}</div>')
        else:
            blocks += [f"<p>{_prose(paragraph)}</p>" for paragraph in re.split(r"\n\s*\n", part) if paragraph.strip()]
    return "\n".join(blocks)


def _prose(text: str) -> str:
    """A paragraph: formulas between $, names from the code between backticks, what is stressed between asterisks.

    What touches a formula stays on its line: browsers would break before a comma.
    """
    html = ""
    for place, part in enumerate(re.split(r"((?:[^\s$`]*\$[^$]+\$)+[^\s$`]*)", text)):
        if place % 2:
            pieces = re.split(r"\$([^$]+)\$", part)
            html += f'<span class="formula">{_alternate(pieces, mathml)}</span>'
        elif "$" in part:
            raise ValueError(f"a $ has no other in the paragraph {text.strip()}")
        else:
            words = _alternate(re.split(r"`([^`]+)`", part), lambda code: f"<code>{escape(code)}</code>")
            html += re.sub(r"\*([^*]+)\*", r"<em>\1</em>", words)
    return html


def _alternate(parts: list[str], convert: Callable[[str], str]) -> str:
    """Plain words and, at odd places, what is converted."""
    return "".join(convert(part) if place % 2 else escape(part) for place, part in enumerate(parts))


def _code(function: Callable[..., Any]) -> str:
    """The source of a function, as it is in its file, and where that is."""
    lines, first = inspect.getsourcelines(function)
    where = f"<code>{function.__module__.replace('.', '/')}.py</code>, line {first}"
    return f'<pre><code>{_coloured("".join(lines))}</code></pre>\n<p class="where">{where}</p>'


def _coloured(source: str) -> str:
    """Python as HTML: the same text, with spans around keywords, names that are defined, literals and comments."""
    lines = [0, *accumulate(len(line) for line in io.StringIO(source))]
    html, at, before = "", 0, ""
    for kind, text, start, end, _ in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[kind]
        if name == "NAME":
            colour = "keyword" if iskeyword(text) else "name" if before in ("def", "class") else ""
        else:  # f-strings come in pieces, as FSTRING_START and so on
            colour = "string" if "STRING" in name else name.lower() if name in ("NUMBER", "COMMENT") else ""
        before = text
        # Python 3.12.1 goes back a little at {{ in an f-string; no text may be lost or doubled by that.
        first, last = (max(lines[row - 1] + column, at) for row, column in (start, end))
        if colour:
            html += f'{escape(source[at:first])}<span class="{colour}">{escape(source[first:last])}</span>'
            at = last
    return html + escape(source[at:])


def _picture(path: Path) -> str:
    """A PNG file as attributes of `img`: itself, its size, and half its width as the least one that can be read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no {path}: save the outcomes there before the page is written") from None
    width, height = struct.unpack(">II", content[16:24])
    size = f'width="{width}" height="{height}" style="min-width: {width // 2}px"'
    return f'{size} src="data:image/png;base64,{b64encode(content).decode()}"'
