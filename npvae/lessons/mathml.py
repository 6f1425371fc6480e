r"""Formulas in TeX as MathML, which browsers draw by themselves: no script, no font and no network is needed.

Only a part of TeX, what lessons use and symbols of its kind beside it, and only MathML Core, which all browsers know
(https://www.w3.org/TR/mathml-core). Spacing comes from the browser's dictionary of operators except where TeX knows
better, as it knows what kind of thing each atom is (Knuth 1984, "The TeXbook", chapters 17 and 18): a minus after an
equals sign is a sign, names of functions stand apart from what follows unless it is a parenthesis.

There are no alphabets of their own, as blackboard bold, nor braces below: they are in mathematical fonts alone, and
not every machine has one. For the same reason a letter that is to be italic is one without mathvariant, so that the
page's style can take it from a font for text (`style`).

>>> mathml(r"\frac{1}{n}")
'<math><mfrac><mn>1</mn><mi>n</mi></mfrac></math>'
>>> mathml(r"x + \foo")
Traceback (most recent call last):
ValueError: unknown command \foo at character 5 of the formula x + \foo
"""

import re
from collections.abc import Collection
from html import escape
from typing import NamedTuple, NoReturn

TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\S")
END = ""  # the token behind the last
NO_BREAK = "\u00a0"  # a space that MathML leaves where it is
APPLY = "\u2061"  # function application: not seen, but read aloud

LIMITS = {r"\sum", r"\prod", r"\max", r"\min", r"\sup", r"\inf"}  # scripts go below and above these
BARS = r"| | \| ‖ \Vert ‖"  # open, close or stand between: TeX cannot tell either
OPENING = r"( ( [ [ \{ { \lVert ‖"
CLOSING = r") ) ] ] \} } \rVert ‖"
SYMBOLS = (  # an element, its kind, and in turn what TeX calls a character and the character
    ("<mi>{}</mi>", "ord", r"""\alpha α \beta β \gamma γ \delta δ \epsilon ε \zeta ζ \eta η \theta θ
        \iota ι \kappa κ \lambda λ \mu μ \nu ν \xi ξ \pi π \rho ρ \sigma σ \tau τ \upsilon υ \phi ϕ \varphi φ \chi χ
        \psi ψ \omega ω \partial ∂"""),
    ("<mi mathvariant='normal'>{}</mi>", "ord", r"""\Gamma Γ \Delta Δ \Theta Θ \Lambda Λ \Xi Ξ \Pi Π \Sigma Σ
        \Upsilon Υ \Phi Φ \Psi Ψ \Omega Ω \nabla ∇ \infty ∞ \top ⊤ \ldots … \cdots ⋯ \forall ∀ \ell ℓ"""),
    ("<mi mathvariant='normal'>{}</mi>", "function", r"""\log log \exp exp \det det \tr tr \arg arg \sin sin \cos cos
        \tanh tanh"""),
    ("<mo movablelimits='true' lspace='0' rspace='0'>{}</mo>", "function", r"\max max \min min \sup sup \inf inf"),
    ("<mo>{}</mo>", "large", r"\sum ∑ \prod ∏ \int ∫"),
    ("<mo>{}</mo>", "binary", r"\cdot ⋅ \times × \odot ⊙"),
    ("<mo>{}</mo>", "relation", r"""= = < &lt; > &gt; : : \le ≤ \ge ≥ \ne ≠ \approx ≈ \sim ∼ \propto ∝ \in ∈ \to →
        \mapsto ↦ \perp ⊥ \mid ∣ \Rightarrow ⇒ \Leftrightarrow ⇔"""),
    ("<mo>{}</mo>", "punctuation", ", , ; ;"),
    ("<mo form='prefix' stretchy='false'>{}</mo>", "open", OPENING),
    ("<mo form='postfix' stretchy='false'>{}</mo>", "close", CLOSING),
    ("<mo stretchy='false' lspace='0' rspace='0'>{}</mo>", "ord", BARS + " / / ! ! . ."),
    ("<mspace width='{}em'/>", "space", r"\quad 1 \qquad 2 \, 0.1667 \; 0.2778"),
)  # fmt: skip
SIGNS = {"+": "+", "-": "−", r"\pm": "±"}  # between two terms, or before one
ACCENTS = {r"\hat": "^", r"\bar": "‾", r"\tilde": "~", r"\vec": "→"}
TABLES = {  # how the columns of an environment are set, in turn
    "aligned": ("text-align: right; padding-right: 0", "text-align: left; padding-left: 0"),
    "cases": ("text-align: left; padding-left: 0", "text-align: left"),
}


class Atom(NamedTuple):
    """One thing of a formula; kind, a column of SYMBOLS or "fence", says how it stands to its neighbours."""

    markup: str
    kind: str = "ord"


def _pairs(text: str) -> dict[str, str]:
    """What stands at even places of a text, with what stands behind each."""
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


ATOMS = {
    token: Atom(element.format(character), kind)
    for element, kind, text in SYMBOLS
    for token, character in _pairs(text).items()
} | {r"\ ": Atom("<mspace width='0.25em'/>", "space")}


def mathml(tex: str, display: bool = False) -> str:
    """A formula as a `math` element: within a line of text, or displayed on a line of its own.

    ValueError, with the place, if it is not in our part of TeX: nothing is guessed or left out.
    """
    content = "".join(_Parser(tex.strip()).row([END]))
    if not content:
        raise ValueError("a formula is empty")
    return ("<math display='block'>" if display else "<math>") + content + "</math>"


class _Parser:
    """Recursive descent: a method takes from the tokens what it is named after and returns it as MathML."""

    def __init__(self, tex: str) -> None:
        self.tex = tex
        self.tokens = [(match[0], match.start()) for match in TOKEN.finditer(tex)] + [(END, len(tex))]
        self.at = 0  # the next token
        self.before = ""  # the kind of the atom before, "" at the start of a row

    def next(self) -> str:
        return self.tokens[self.at][0]

    def take(self, expected: str) -> None:
        if self.next() != expected:
            self.fail(f"expected {expected}, got {self.next() or 'the end'}", self.at)
        self.at += 1

    def fail(self, what: str, at: int) -> NoReturn:
        raise ValueError(f"{what} at character {self.tokens[at][1] + 1} of the formula {self.tex}")

    def row(self, ends: Collection[str], before: str = "") -> list[str]:
        """Atoms up to one of `ends`, with TeX's space around functions."""
        parts, self.before = [], before
        while self.next() not in ends:
            before = self.before
            atom = self.scripted()
            if before == "function" and atom.kind in ("open", "fence"):
                parts.append(f"<mo>{APPLY}</mo>")
            elif before == "function" and atom.kind in ("ord", "function", "large"):
                parts.append(f"<mo rspace='0.1667em'>{APPLY}</mo>")
            elif before in ("ord", "close", "fence") and atom.kind == "function":
                parts.append("<mspace width='0.1667em'/>")
            parts.append(atom.markup)
            self.before = before if atom.kind == "space" else atom.kind
        return parts

    def scripted(self) -> Atom:
        """An atom with its subscript, superscript and primes, or with its limits."""
        limits = self.next() in LIMITS
        base = self.atom()
        below = above = primes = ""
        while (mark := self.next()) in ("_", "^", "'"):
            if (mark == "_" and below) or (mark == "^" and above):
                self.fail(f"a second {mark} on the same base", self.at)
            self.at += 1
            if mark == "_":
                below = self.argument(mark)
            elif mark == "^":
                above = self.argument(mark)
            else:
                primes += "′"
        if primes:  # not as a superscript: fonts have them raised already
            base = Atom(f"<mrow>{base.markup}<mo lspace='0' rspace='0'>{primes}</mo></mrow>", base.kind)
        if not below and not above:
            return base
        lower, upper = ("under", "over") if limits else ("sub", "sup")
        name = "m" + lower * bool(below) + upper * bool(above)
        return Atom(f"<{name}>{base.markup}{below}{above}</{name}>", base.kind)

    def atom(self) -> Atom:
        """A symbol, a group, or a command with its arguments."""
        start, token = self.at, self.next()
        self.at += 1
        if token in ATOMS:
            return ATOMS[token]
        if token.isascii() and token.isalpha():
            return Atom(f"<mi>{token}</mi>")
        if token[:1].isdigit():
            return Atom(f"<mn>{token}</mn>")
        if token in SIGNS:
            form = "infix" if self.before in ("ord", "close", "fence") else "prefix"
            return Atom(f"<mo form='{form}'>{SIGNS[token]}</mo>", "sign")
        if token == "{":
            self.at = start
            return Atom(self.argument(token))
        if token == r"\left":
            return self.fenced()
        if token == r"\begin":
            return self.table()
        if token == r"\frac":
            return Atom(f"<mfrac>{self.argument(token)}{self.argument(token)}</mfrac>")
        if token == r"\sqrt":
            return Atom(f"<msqrt>{self.argument(token)}</msqrt>")
        if token in ACCENTS:
            accent = f"<mo stretchy='false'>{ACCENTS[token]}</mo>"
            return Atom(f"<mover accent='true'>{self.argument(token)}{accent}</mover>")
        if token in (r"\mathrm", r"\operatorname"):
            name = escape(self.words(token).replace(" ", ""))
            return Atom(f"<mi mathvariant='normal'>{name}</mi>", "ord" if token == r"\mathrm" else "function")
        if token == r"\text":
            return Atom(f"<mtext>{escape(self.words(token)).replace(' ', NO_BREAK)}</mtext>")
        known = token in (r"\right", r"\end", r"\\") or not token.startswith("\\")
        self.fail(f"{'unexpected' if known else 'unknown command'} {token or 'end'}", start)

    def argument(self, command: str) -> str:
        """What belongs to a command, as one element: a group in braces or, without braces, one atom."""
        if self.next() == "{":
            self.at += 1
            parts = self.row(["}", END])
            self.take("}")
        else:
            token, place = self.tokens[self.at]
            if token.isdigit() and len(token) > 1:  # \frac12 is a half
                self.tokens[self.at : self.at + 1] = [(token[0], place), (token[1:], place + 1)]
            start, self.before = self.at, ""
            atom = self.atom()
            if atom.kind in ("open", "close", "fence", "space"):
                self.fail(f"expected an argument of {command}, got {token}", start)
            parts = [atom.markup]
        if len(parts) == 1:  # an operator alone stands to nothing and needs no space
            return re.sub(r"^<mo( form='\w+')?>", "<mo lspace='0' rspace='0'>", parts[0])
        return f"<mrow>{''.join(parts)}</mrow>"

    def fenced(self) -> Atom:
        r"""What follows \left, up to \right and its delimiter: fences as tall as what is between them."""
        left = self.delimiter(r"\left", OPENING)
        inside = "".join(self.row([r"\right", "}", "&", END]))
        self.take(r"\right")
        right = self.delimiter(r"\right", CLOSING)
        markup = f"<mrow><mo form='prefix'>{left}</mo>{inside}<mo form='postfix'>{right}</mo></mrow>"
        return Atom(markup, "ord" if left in BARS else "fence")

    def delimiter(self, command: str, known: str) -> str:
        token = self.next()
        if token not in (delimiters := _pairs(known + " " + BARS)):
            self.fail(f"expected a delimiter after {command}, got {token or 'the end'}", self.at)
        self.at += 1
        return delimiters[token]

    def table(self) -> Atom:
        r"""What follows \begin, up to \end and its name: cells between & in rows between \\."""
        start = self.at
        name = self.words(r"\begin")
        if name not in TABLES:
            self.fail(f"unknown environment {name}", start)
        rows: list[list[str]] = [[]]
        while True:
            column = len(rows[-1]) % 2
            # TeX has something invisible in front of a column on the right, so that a minus there subtracts.
            cell = "".join(self.row(["&", r"\\", r"\end", "}", END], before="ord" if column else ""))
            rows[-1].append(f"<mtd style='{TABLES[name][column]}'>{cell}</mtd>")
            if self.next() == r"\\":
                rows.append([])
            elif self.next() != "&":
                break
            self.at += 1
        self.take(r"\end")
        end = self.at
        if (ended := self.words(r"\end")) != name:
            self.fail(f"expected the end of {name}, got that of {ended}", end)
        content = "".join(f"<mtr>{''.join(cells)}</mtr>" for cells in rows)
        if name == "cases":
            return Atom(f"<mrow><mo form='prefix'>{{</mo><mtable>{content}</mtable></mrow>")
        return Atom(f"<mtable displaystyle='true'>{content}</mtable>")

    def words(self, command: str) -> str:
        """The argument in braces of a command that takes no formula."""
        start = self.tokens[self.at][1] + 1
        self.take("{")
        while self.next() not in ("}", END):
            if self.next()[0] in "\\{$":
                self.fail(f"{command} takes plain words, got {self.next()}", self.at)
            self.at += 1
        text = self.tex[start : self.tokens[self.at][1]]
        self.take("}")
        return text
