"""The page of all lessons: read as HTML, and opened in Chromium where there is one."""

import base64
import html
import inspect
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import made_lessons
import pytest

from npvae import lessons, plots
from npvae.errors import InputError
from npvae.lessons import Findings, Number, Outcome
from npvae.lessons.page import write_page

MADE = {"loss": made_lessons.Loss, "pca": made_lessons.PCA, "deep": made_lessons.Sigmoid}
VOID = {"meta", "img", "br", "hr", "link", "input"}


def outcome(name, folder, value=0.5, quick=True):
    """A lesson as if it had been run, saved in the folder; its claim holds if value <= 1."""
    figure = plots.new_figure(8, 3)
    figure.text(0.5, 0.5, name)
    numbers = (
        Number(
            "a quantity with quite a long name, as names of quantities are", value, at_most=1.0, unit="nats per image"
        ),
        Number('share of "a" < b & c', 0.25, at_least=-1, at_most=1.0),
        Number("raw pixels", 0.951),
    )
    alt = f'The name "{name}" & nothing else.'
    title, claim, _ = lessons.describe(name)
    made = Outcome(name, title, claim, quick, 1.25, Findings(numbers, figure, alt))
    made.save(folder)
    return made


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Three outcomes, of which the last does not hold."""
    monkeypatch.setattr(lessons, "module", MADE.__getitem__)
    return [outcome("loss", tmp_path), outcome("pca", tmp_path), outcome("deep", tmp_path, value=3.0)]


class Page(HTMLParser):
    """What is on a page: the text of every element, and its attributes. Elements must be closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []  # (tag, attributes, [text])
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {[tag for tag, *_ in self.open]}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names)
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        assert tag == "mspace", f"<{tag}/> is not closed in HTML"
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, text in self.open:
            text.append(data)

    def all(self, tag, kind=None):
        """The elements of a tag, and of a class."""
        return [
            (attributes, "".join(text))
            for name, attributes, text in self.elements
            if name == tag and (kind is None or kind in attributes.get("class", "").split())
        ]

    def texts(self, tag, kind=None):
        return [text for _, text in self.all(tag, kind)]


def formulas(derivation):
    """How many formulas a derivation has: displayed, and within the text."""
    displayed = derivation.split("$$")[1::2]
    rest = "".join(derivation.split("$$")[::2])
    return len(displayed), rest.count("$") // 2


def check(text, outcomes, folder):
    """What holds for every page."""
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and page.all("html")[0][0]["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("title")) == len(page.all("main")) == 1

    # It needs nothing else.
    assert not {"script", "link", "iframe", "object"} & {tag for tag, *_ in page.elements}
    assert "://" not in text and "@import" not in text and "url(" not in text
    identities = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert identities == [one.name for one in outcomes]
    assert {attributes["href"] for attributes, _ in page.all("a")} == {f"#{name}" for name in identities}
    assert not any(name.startswith("on") for _, attributes, _ in page.elements for name in attributes)

    # Pictures, as they were saved, with what they show in words.
    for (attributes, _), one in zip(page.all("img"), outcomes, strict=True):
        kind, content = attributes["src"].split(",")
        assert (attributes["width"], attributes["height"]) == ("960", "360") and "min-width: 480px" in attributes[
            "style"
        ]
        assert kind == "data:image/png;base64" and attributes["alt"] == one.findings.alt
        assert base64.b64decode(content, validate=True) == (folder / f"{one.name}.png").read_bytes()

    # Every formula, and no TeX.
    counts = [formulas(lessons.describe(one.name)[2]) for one in outcomes]
    shown = page.all("math")
    assert sum("display" in attributes for attributes, _ in shown) == sum(count[0] for count in counts)
    assert len(shown) == sum(map(sum, counts))
    code = "".join(page.texts("pre"))
    words = [text for tag in ("p", "h2", "div", "td", "th", "figcaption", "li") for text in page.texts(tag)]
    assert not [text for text in words if re.search(r"[$\\`*]", text)], "TeX or a mark is left"

    # Code as it stands in the file, numbers as they are printed.
    functions = [function for one in outcomes for function in lessons.module(one.name).SHOWN]
    assert code == "".join(map(inspect.getsource, functions))
    numbers = [number for one in outcomes for number in one.numbers]
    assert [text for text in page.texts("tr") if not text.startswith("numbermeasured")] == [
        number.name + number.measured + number.tolerance + number.verdict for number in numbers
    ]
    assert page.texts("h2") == [one.title for one in outcomes]
    assert page.texts("p", "claim") == [one.claim for one in outcomes]
    assert page.texts("p", "verdict") == [
        "✓ The claim holds" if one.holds else "✗ The claim does not hold" for one in outcomes
    ]
    return page


def test_the_page(made, tmp_path):
    path = write_page(made, tmp_path)
    assert path == tmp_path / "index.html"
    page = check(path.read_text("utf-8"), made, tmp_path)
    assert page.texts("p", "summary") == ["2 of 3 claims hold. These do not: Derivatives of what is bent."]
    assert page.all("p", "summary")[0][0]["class"] == "summary fails"
    assert [attributes["class"] for attributes, _ in page.all("p", "verdict")] == ["verdict holds"] * 2 + [
        "verdict fails"
    ]
    assert page.texts("td", "fails") == ["FAILS"] and len(page.texts("td", "holds")) == 5
    assert page.texts("li") == [
        "1The loss has a closed form, and its weights mean a variance✓",
        "2A linear autoencoder is PCA✓",
        "3Derivatives of what is bent✗ does not hold",
    ]
    assert page.texts("footer") == ["\nMade by npvae lesson all --quick in 4 seconds.\n"]


def test_what_is_stressed(made, tmp_path):
    assert Page(write_page(made, tmp_path).read_text("utf-8")).texts("em") == ["only"]


def test_when_all_claims_hold(made, tmp_path):
    page = Page(write_page(made[:2], tmp_path).read_text("utf-8"))
    assert page.texts("p", "summary") == ["2 of 2 claims hold."] and not page.all("p", "fails")


def test_what_touches_a_formula_stays_on_its_line(made, tmp_path):
    kept = Page(write_page(made, tmp_path).read_text("utf-8")).texts("span", "formula")
    assert "σ=1." in kept and "(each" not in "".join(kept) and "η=10−3)." in kept


def test_colours_of_code(made, tmp_path):
    page = Page(write_page(made[:1], tmp_path).read_text("utf-8"))
    assert page.texts("span", "keyword")[:6] == ["def", "return", "def", "for", "in", "return"]
    assert page.texts("span", "name") == ["kl", "sampled"]
    assert page.texts("span", "comment") == ["# <= 0 nowhere & = 0 at the prior alone"]
    assert page.texts("span", "string")[1] == '"""The same by sampling."""'
    assert page.texts("span", "string")[2].startswith('f"')  # in pieces from Python 3.12 on
    assert {"0.5", "2", "1_000"} <= set(page.texts("span", "number"))


def test_the_page_needs_the_pictures(made, tmp_path):
    (tmp_path / "pca.png").unlink()
    with pytest.raises(InputError, match=r"pca\.png: save the outcomes there"):
        write_page(made, tmp_path)
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize("derivation, message", [
    (r"Let $\foo$.", r"the derivation of loss: unknown command \\foo at character 1"),
    ("Let $x.", r"the derivation of loss: a \$ has no other in the paragraph Let \$x\."),
    ("$$\nx\n", r"the derivation of loss: a \$\$ has no other"),
])  # fmt: skip
def test_a_derivation_that_cannot_be_shown(made, tmp_path, monkeypatch, derivation, message):
    monkeypatch.setattr(made_lessons.Loss, "__doc__", f"Title.\n\nClaim.\n\n{derivation}")
    with pytest.raises(ValueError, match=message):
        write_page(made, tmp_path)


@pytest.mark.parametrize("name", lessons.NAMES)
def test_every_lesson_on_a_page(name, tmp_path):
    """Its own derivation and code, without running it."""
    made = [outcome(name, tmp_path)]
    check(write_page(made, tmp_path).read_text("utf-8"), made, tmp_path)


# ── In Chromium ──────────────────────────────────────────────────────────────────────────────────────────────────────

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page in")
PHONE, DESK = 360, 1280

MEASURE = """
const box = element => element.getBoundingClientRect();
const measure = frame => {
  const page = frame.contentDocument, all = (selector, f) => Array.from(page.querySelectorAll(selector), f);
  return {
    width: frame.contentWindow.innerWidth,
    page: page.scrollingElement.scrollWidth,
    images: all("img", image => [image.naturalWidth, image.complete, box(image).width]),
    formulas: all("math", formula => [box(formula).width, box(formula).height]),
    fractions: all("mfrac", ({children: [above, below]}) => [box(above).bottom, box(below).top]),
    powers: all("msup", ({children: [base, power]}) => [box(base).bottom - box(power).bottom, box(power).height]),
    scrolling: all("pre, .display, .table, .picture", one => one.scrollWidth > one.clientWidth).filter(Boolean).length,
    text: all("p", one => parseFloat(frame.contentWindow.getComputedStyle(one).fontSize)),
    dark: frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches,
    paper: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
  };
};
onload = () => {
  const said = document.createElement("pre");
  said.id = "measured";
  said.textContent = JSON.stringify(Array.from(document.querySelectorAll("iframe"), measure));
  document.body.append(said);
};
"""


def opened(text, folder):
    """What Chromium measures on the page at the width of a phone and of a desk, and what its console says.

    The page is in two frames, because a window of Chromium has a least width, and is not changed in them.
    """
    frame = '<iframe width="{}" height="800" srcdoc="{}"></iframe>'
    frames = "".join(frame.format(width, html.escape(text)) for width in (PHONE, DESK))
    (folder / "frames.html").write_text(f"<!DOCTYPE html><script>{MEASURE}</script><body>{frames}</body>", "utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --v=0 --dump-dom"
    )
    done = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={folder / 'chromium'}", (folder / "frames.html").as_uri()],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    measured = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.S)
    assert done.returncode == 0 and measured, done.stderr
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return *json.loads(html.unescape(measured[1])), console


def defects(phone, desk, console):
    """What is wrong with a page as it was opened, in words; there should be none."""
    found = [*console]
    for screen, width in ((phone, PHONE), (desk, DESK)):
        assert screen["width"] == width
        found += [f"{screen['page']} wide on {width}"] * (screen["page"] > width)
        found += [f"image {image}" for image in screen["images"] if not all(image)]
        found += [f"formula {size}" for size in screen["formulas"] if min(size) < 4]
        found += [f"fraction {edges}" for edges in screen["fractions"] if edges[0] > edges[1] + 0.5]
        found += [f"power {power}" for power in screen["powers"] if min(power) <= 0]
        found += [f"text of {size} px" for size in screen["text"] if size < 12]
    return found


@chromium
def test_the_page_in_a_browser(made, tmp_path):
    phone, desk, console = opened(write_page(made, tmp_path).read_text("utf-8"), tmp_path)
    assert defects(phone, desk, console) == []
    counts = [formulas(lessons.describe(name)[2]) for name in MADE]
    for screen in (phone, desk):
        assert len(screen["images"]) == 3 and len(screen["formulas"]) == sum(map(sum, counts))
        assert len(screen["fractions"]) > 10 and len(screen["powers"]) > 10
    assert phone["scrolling"] > desk["scrolling"], "long lines of code scroll in their own boxes"


BREAKS = (  # what is replaced on a page, by what, and what is found to be wrong with it
    ("<main>", "<main><script>undefined_function()</script>", "undefined_function is not defined"),
    ("<h3>", "<h3 style='white-space: nowrap'>" + 80 * "wide ", "wide on 360"),
    ("base64,", "base64,AAAA", "image [0, True"),
    ("<math>", "<math style='display: none'>", "formula [0, 0]"),
    ("<mfrac>", "<mfrac style='display: flex'>", "fraction ["),
    ("<msup>", "<msup style='display: flex'>", "power [0,"),
    ('<p class="claim">', '<p style="font-size: 11px">', "text of 11 px"),
)


@chromium
def test_what_would_be_wrong_in_a_browser_is_seen(made, tmp_path):
    """Or the test above would mean nothing."""
    text = write_page(made[:1], tmp_path).read_text("utf-8")
    for right, wrong, _ in BREAKS:
        assert right in text
        text = text.replace(right, wrong, 1)
    found = "\n".join(defects(*opened(text, tmp_path)))
    assert [defect for _, _, defect in BREAKS if defect not in found] == []


@chromium
def test_the_lecture_in_a_browser(tmp_path):
    made = [outcome(name, tmp_path) for name in lessons.NAMES]
    phone, desk, console = opened(write_page(made, tmp_path).read_text("utf-8"), tmp_path)
    assert defects(phone, desk, console) == []
    assert len(phone["images"]) == len(lessons.NAMES)
