r"""TeX to MathML: what formulas become, that nothing is lost, and how what is not known is refused."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npvae.lessons.mathml import mathml

CHILDREN = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}
CORE = {  # https://www.w3.org/TR/mathml-core, as far as we need it
    *("math", "mi", "mn", "mo", "mtext", "mspace", "mrow", "msqrt", "mtable", "mtr", "mtd"),
    *CHILDREN,
}


def tree(tex, display=False):
    """The formula, after what holds for all: it is well-formed, and browsers know its elements and their number."""
    made = ElementTree.fromstring(mathml(tex, display))
    for element in made.iter():
        assert element.tag in CORE
        assert len(element) == CHILDREN.get(element.tag, len(element))
        assert not len(element) or not (element.text or "").strip()
    return made


def said(tex):
    """The formula in a line: what is visible of it, and the elements that place it."""

    def say(element):
        inside = " ".join(filter(None, map(say, element))) or (element.text or "").strip("\u2061")
        placed = element.tag not in ("math", "mi", "mn", "mo", "mtext", "mspace")
        return f"{element.tag.removeprefix('m')}({inside})" if placed else inside

    return say(tree(tex))


@pytest.mark.parametrize(
    "tex, meant",
    [
        (r"\frac{1}{n}", "frac(1 n)"),
        (r"\frac12x", "frac(1 2) x"),
        (r"\frac{a+b}{\frac{c}{d}}", "frac(row(a + b) frac(c d))"),
        (r"\sqrt{2\pi}", "sqrt(row(2 π))"),
        ("x_i^2", "subsup(x i 2)"),
        ("x^2_i", "subsup(x i 2)"),
        ("x^{2^n}", "sup(x sup(2 n))"),
        ("x^10", "sup(x 1) 0"),  # as in TeX
        ("0.25x", "0.25 x"),
        ("10{,}000", "10 , 000"),
        (r"\sigma'(a)", "row(σ ′) ( a )"),
        ("f''^2", "sup(row(f ′′) 2)"),
        ("f_i'", "sub(row(f ′) i)"),
        (r"W^\top W", "sup(W ⊤) W"),
        (r"\sum_{i=1}^n x_i", "underover(∑ row(i = 1) n) sub(x i)"),
        (r"\int_0^1 p\,dx", "subsup(∫ 0 1) p d x"),
        (r"\max_W \tr W", "under(max W) tr W"),
        (r"\arg\min_x", "arg under(min x)"),
        (r"\log_2 x", "sub(log 2) x"),
        (r"\hat{x}_i", "sub(over(x ^) i)"),
        (r"\bar x + \tilde x - \vec x", "over(x ‾) + over(x ~) − over(x →)"),
        (r"E_{z \sim q}", "sub(E row(z ∼ q))"),
        (r"\mathrm{KL}(q \| p)", "KL ( q ‖ p )"),
        (r"\operatorname{diag} s", "diag s"),
        (r"x \text{ if } i < k", "x \u00a0if\u00a0 i < k"),
        (r"\left[\frac{a}{b}\right]^2", "sup(row([ frac(a b) ]) 2)"),
        (r"\left\{ x \right\} \left\| x \right\| \left| x \right|", "row({ x }) row(‖ x ‖) row(| x |)"),
        (r"\lVert x\rVert^2", "‖ x sup(‖ 2)"),
        (r"\begin{aligned} a &= b \\ &= c \end{aligned}", "table(tr(td(a) td(= b)) tr(td() td(= c)))"),
        (
            r"f = \begin{cases} 1 & x > 0 \\ 0 & \text{else} \end{cases}",
            "f = row({ table(tr(td(1) td(x > 0)) tr(td(0) td(else))))",
        ),
        (r"\{a \mid a \ne \infty\}", "{ a ∣ a ≠ ∞ }"),
    ],
)
def test_what_a_formula_becomes(tex, meant):
    assert said(tex) == meant


TABLE = r"""a a Z Z 0 0 9 9 + + - − = = < < > > | | , , ; ; . . ( ( ) ) [ [ ] ] / / ! ! : :
\alpha α \beta β \gamma γ \delta δ \epsilon ε \zeta ζ \eta η \theta θ \iota ι \kappa κ \lambda λ \mu μ
\nu ν \xi ξ \pi π \rho ρ \sigma σ \tau τ \upsilon υ \phi ϕ \varphi φ \chi χ \psi ψ \omega ω
\Gamma Γ \Delta Δ \Theta Θ \Lambda Λ \Xi Ξ \Pi Π \Sigma Σ \Upsilon Υ \Phi Φ \Psi Ψ \Omega Ω
\sum ∑ \int ∫ \prod ∏ \log log \exp exp \min min \max max \sup sup \inf inf \det det \tr tr \arg arg \sin sin \cos cos
\tanh tanh \le ≤ \ge ≥ \ne ≠ \approx ≈ \sim ∼ \propto ∝ \in ∈ \to → \mapsto ↦ \infty ∞ \partial ∂ \nabla ∇ \cdot ⋅
\times × \odot ⊙ \pm ± \top ⊤ \perp ⊥ \| ‖ \mid ∣ \ldots … \cdots ⋯ \{ { \} } \lVert ‖ \rVert ‖ \Vert ‖ \ell ℓ
\Rightarrow ⇒ \Leftrightarrow ⇔ \forall ∀"""
SUBSET = dict(zip(TABLE.split()[::2], TABLE.split()[1::2], strict=True))


@pytest.mark.parametrize("token", SUBSET)
def test_every_symbol(token):
    assert said(token) == SUBSET[token]
    assert said(f"x {token} y") == f"x {SUBSET[token]} y"


@pytest.mark.parametrize(
    "tex, widths", [(r"a \quad b", [1]), (r"a \, b \; c \ d", [0.1667, 0.2778, 0.25]), (r"\qquad", [2])]
)
def test_spaces(tex, widths):
    assert [float(space.get("width").removesuffix("em")) for space in tree(tex).iter("mspace")] == widths


@pytest.mark.parametrize("tex, form", [
    ("-x", "prefix"), ("a - x", "infix"), ("a = -x", "prefix"), ("(-x", "prefix"), (") - x", "infix"),
    ("a, -x", "prefix"), (r"a \cdot -x", "prefix"), (r"\left( a \right) - x", "infix"), (r"x_i - x", "infix"),
    (r"\frac{a}{b} - x", "infix"), (r"a = \, -x", "prefix"), (r"\log - x", "prefix"), (r"\sum - x", "prefix"),
    (r"\begin{aligned} & - x \end{aligned}", "infix"), (r"\begin{aligned} - x \end{aligned}", "prefix"),
])  # fmt: skip
def test_a_minus_is_a_sign_or_subtracts(tex, form):
    (minus,) = (one for one in tree(tex).iter("mo") if one.text == "−")
    assert minus.get("form") == form


@pytest.mark.parametrize("tex, before, after", [
    (r"\log x", None, True), (r"\log(x)", None, False), (r"a\log\log x", True, True), (r"a + \log x", None, True),
    (r"(a)\exp(x)", True, False), (r"\log |x|", None, True), (r"\log \frac{a}{b}", None, True),
    (r"\det\left(A\right)", None, False), (r"\log\left|A\right|", None, True),
    (r"\sum_i \log p_i", None, True), (r"\operatorname{Var}[x]", None, False), (r"\max_x f", None, True),
])  # fmt: skip
def test_names_of_functions_stand_apart(tex, before, after):
    """From what is before them and from what they are applied to, unless that is in parentheses."""
    parts = list(tree(tex))
    assert any(part.tag == "mspace" for part in parts) is bool(before)
    applied = [part for part in parts if part.text == "\u2061"]
    assert applied and all(("rspace" in part.attrib) is after for part in applied)


def test_letters_lean_and_names_do_not():
    """A single letter in mi leans by itself."""
    upright = {
        one.text: one.get("mathvariant") for one in tree(r"x \sigma \Sigma \mathrm{d} \mathrm{KL} \nabla").iter("mi")
    }
    assert upright == {"x": None, "σ": None, "Σ": "normal", "d": "normal", "KL": "normal", "∇": "normal"}


def test_only_left_and_right_stretch():
    plain, tall = list(tree(r"(x)").iter("mo")), list(tree(r"\left(x\right)").iter("mo"))
    assert [one.get("stretchy") for one in plain] == ["false"] * 2 and [one.get("stretchy") for one in tall] == [
        None
    ] * 2
    assert [one.get("form") for one in tall] == ["prefix", "postfix"]


def test_columns_meet_at_their_sign():
    """Three columns: right, left, right."""
    styles = [cell.get("style") for cell in tree(r"\begin{aligned} a &= b & c \end{aligned}").iter("mtd")]
    assert ["right;" in styles[0], "left;" in styles[1], "right;" in styles[2]] == [True] * 3
    assert tree(r"\begin{aligned} a \end{aligned}").find("mtable").get("displaystyle") == "true"


def test_display():
    assert tree("x", display=True).get("display") == "block" and tree("x").get("display") is None


def test_what_html_would_misread():
    assert mathml("a < b > c") == "<math><mi>a</mi><mo>&lt;</mo><mi>b</mi><mo>&gt;</mo><mi>c</mi></math>"
    assert said(r"\text{a & b <c>}") == "a\u00a0&\u00a0b\u00a0<c>"
    assert said(r"\mathrm{R&D}") == "R&D"


@pytest.mark.parametrize("tex, what, place", [
    (r"x + \foo", r"unknown command \foo", 5),
    ("x # y", "unexpected #", 3),
    ("µ", "unexpected µ", 1),
    ("a & b", "unexpected &", 3),
    (r"a \\ b", r"unexpected \\", 3),
    ("x}", "unexpected }", 2),
    ("{x", "expected }, got the end", 3),
    (r"\frac{a}", "unexpected end", 9),
    (r"\frac{a}{b", "expected }, got the end", 11),
    (r"\sqrt[3]{x}", r"expected an argument of \sqrt, got [", 6),
    ("x^", "unexpected end", 3),
    ("^2", "unexpected ^", 1),
    ("'", "unexpected '", 1),
    ("x^2^3", "a second ^ on the same base", 4),
    ("x_i_j", "a second _ on the same base", 4),
    (r"\left( x", r"expected \right, got the end", 9),
    (r"\left x \right)", r"expected a delimiter after \left, got x", 7),
    (r"\left( x \right", r"expected a delimiter after \right, got the end", 16),
    (r"\left( x \right(", r"expected a delimiter after \right, got (", 16),
    (r"x \right)", r"unexpected \right", 3),
    (r"{\left( x } \right)", r"expected \right, got }", 11),
    (r"\begin{matrix} a \end{matrix}", "unknown environment matrix", 7),
    (r"\begin{aligned} a", r"expected \end, got the end", 18),
    (r"\begin{aligned} a \end{cases}", "expected the end of aligned, got that of cases", 23),
    (r"\begin x", "expected {, got x", 8),
    (r"\text{if $x$}", r"\text takes plain words, got $", 10),
    (r"\text{if", "expected }, got the end", 9),
    (r"\mathrm{\mu}", r"\mathrm takes plain words, got \mu", 9),
])  # fmt: skip
def test_what_is_refused(tex, what, place):
    with pytest.raises(ValueError) as refused:
        mathml(tex)
    assert str(refused.value) == f"{what} at character {place} of the formula {tex}"


@pytest.mark.parametrize("tex", ["", " \n"])
def test_an_empty_formula_is_refused(tex):
    with pytest.raises(ValueError, match="empty"):
        mathml(tex)


def around(tex, visible):
    """Two formulas as one: tex has their places, visible the characters that show."""
    return lambda two: (tex % (two[0][0], two[1][0]), visible % (two[0][1], two[1][1]))


SYMBOLS = sorted(token for token in SUBSET if len(token) > 1 or token.isalnum() or token in "+-=<,/|")
FORMULAS = st.recursive(
    st.sampled_from([(token, SUBSET[token]) for token in SYMBOLS]),
    lambda inside: st.builds(
        lambda form, *two: around(*form)(two),
        st.sampled_from([
            ("%s %s", "%s%s"),
            (r"\frac{%s}{%s}", "%s%s"),
            ("{%s}_{%s}", "%s%s"),
            (r"\left( %s \right|^{%s}", "(%s|%s"),
            (r"\max_{%s} %s", "max%s%s"),
            (r"\sqrt{\hat{%s}} + \text{or} %s", "%s^+or%s"),
            (r"\begin{aligned} %s & %s \\ & \end{aligned}", "%s%s"),
            (r"\begin{cases} %s \\ %s \end{cases}", "{%s%s"),
        ]),
        inside,
        inside,
    ),
)  # fmt: skip


@given(FORMULAS)
def test_formulas_of_any_depth_lose_nothing(formula):
    tex, visible = formula
    assert "".join(tree(tex).itertext()).replace("\u2061", "") == visible


@given(
    st.lists(
        st.sampled_from(
            [*SYMBOLS, r"\frac", r"\hat", r"\begin", *"{}_^'&$", r"\left", r"\right", r"\text", r"\\", "é"]
        ),
        max_size=12,
    )
)
def test_any_tokens_become_a_formula_or_are_refused(tokens):
    try:
        tree(" ".join(tokens))
    except ValueError as refused:
        assert "of the formula" in str(refused) or "empty" in str(refused)


def test_no_alphabet_that_is_in_mathematical_fonts_alone():
    """Beyond U+FFFF, where italic, script and double-struck letters are: boxes where there is no such font."""
    assert max(map(ord, "".join(SUBSET.values()))) < 0x10000
    for command in (r"\mathbb{E}", r"\mathcal{N}", r"\underbrace{a}"):
        with pytest.raises(ValueError, match="unknown command"):
            mathml(command)
