"""How the page of the lessons looks: on a wide screen and on a phone, by day and by night."""

STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #fdfcfa; --ink: #1d1c1a; --faint: #67645e; --line: #e2ded5; --box: #f5f2ec;
  --link: #0b62a0; --good: #0a6e4f; --bad: #b02a12;
  --keyword: #8a2f7e; --name: #0b62a0; --string: #0a6e4f; --number: #a34a00; --comment: #6d6a62;
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", Cambria, Georgia, "DejaVu Serif", serif;
  --sans: system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --ink: #e3e1dc; --faint: #a19e96; --line: #34373d; --box: #1e2126;
    --link: #7cbcf0; --good: #63cba1; --bad: #ff9478;
    --keyword: #d99bd0; --name: #7cbcf0; --string: #8fd0a8; --number: #f0ae74; --comment: #98958c;
  }
  img { filter: brightness(0.9); }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; text-size-adjust: 100%; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0 auto; padding: 2.5rem 1rem 4rem; max-width: 46rem;
  background: var(--paper); color: var(--ink); font: 1.0625rem/1.62 var(--serif); overflow-wrap: break-word;
}
a { color: var(--link); text-underline-offset: 0.15em; }
h1, h2, h3, nav, table, .verdict, .place, .where { font-family: var(--sans); }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 0.5rem; letter-spacing: -0.01em; }
h2 { font-size: 1.45rem; line-height: 1.25; margin: 0.1rem 0 0.6rem; letter-spacing: -0.01em; }
h2 a { color: inherit; text-decoration: none; }
h2 a:hover { text-decoration: underline; }
h3 { font-size: 0.8rem; margin: 2.2rem 0 0.6rem; color: var(--faint);
  letter-spacing: 0.08em; text-transform: uppercase; }
p { margin: 0 0 1rem; }
p code { font: 0.86em var(--mono); background: var(--box); padding: 0.1em 0.3em; border-radius: 3px; }

.holds { color: var(--good); }
.fails { color: var(--bad); }
.reported { color: var(--faint); }
.summary { font: 600 1.15rem/1.4 var(--sans); margin: 1.5rem 0 1rem; padding: 0.9rem 1.1rem; border-radius: 6px;
  background: var(--box); border-left: 4px solid currentColor; }
nav { font-size: 0.95rem; line-height: 1.4; }
nav ol { list-style: none; margin: 0; padding: 0; }
nav a { display: flex; gap: 0.6rem; padding: 0.3rem 0; color: inherit; text-decoration: none; }
nav a:hover span:nth-child(2) { text-decoration: underline; }
nav a span:first-child { flex: 0 0 1.6em; text-align: right; color: var(--faint); font-variant-numeric: tabular-nums; }
nav a span:nth-child(2) { flex: 1; }

article { margin-top: 3.5rem; padding-top: 2rem; border-top: 1px solid var(--line); }
.place { margin: 0; font-size: 0.9rem; color: var(--faint); }
.verdict { display: inline-block; margin: 0 0 1rem; padding: 0.1rem 0.65rem; border: 1.5px solid currentColor;
  border-radius: 99px; font-size: 0.85rem; font-weight: 600; }
.claim { font-size: 1.15rem; line-height: 1.55; padding-left: 1rem; border-left: 3px solid var(--line); }

math { font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", "DejaVu Math TeX Gyre", math, var(--serif); }
mi { text-transform: none; font-style: italic; font-family: var(--serif); }  /* not italic letters of a math font, */
mi[mathvariant] { font-style: normal; }  /* which a machine without one shows as boxes */
.formula { white-space: nowrap; }
@media (max-width: 46rem) {  /* a long one scrolls by itself, on its line */
  .formula { display: inline-flex; align-items: baseline; max-width: 100%; overflow-x: auto; overflow-y: hidden; }
}
.display { margin: 0 0 1rem; padding: 0.2rem 0; overflow-x: auto; overflow-y: hidden; }
mtd { padding-top: 0.35em; padding-bottom: 0.35em; }

pre { margin: 0; padding: 0.9rem 1rem; overflow-x: auto; background: var(--box); border-radius: 6px;
  font: 0.84rem/1.5 var(--mono); }
.where { margin: 0.4rem 0 1.2rem; font-size: 0.8rem; color: var(--faint); }
.keyword { color: var(--keyword); } .name { color: var(--name); } .string { color: var(--string); }
.number { color: var(--number); } .comment { color: var(--comment); font-style: italic; }

.table, .picture { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; line-height: 1.4; }
th, td { padding: 0.4rem 0.8rem 0.4rem 0; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--faint); font-weight: 500; font-size: 0.82rem; }
tbody th { font-weight: 400; min-width: 10rem; }
td { white-space: nowrap; font-variant-numeric: tabular-nums; }
td:last-child { padding-right: 0; font-weight: 600; }
td.reported { font-weight: 400; }
@media (max-width: 40rem) {  /* a number's name, and below it what there is to say about it */
  thead { display: none; }
  tbody tr { display: grid; grid-template-columns: auto 1fr auto; padding: 0.5rem 0; }
  tbody tr { border-bottom: 1px solid var(--line); }
  tbody tr > * { border: 0; padding: 0 1rem 0 0; }
  tbody th { grid-column: 1 / -1; }
  td:nth-child(3) { white-space: normal; }
  td { color: var(--faint); }
}

figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #fff;
  border-radius: 6px; border: 1px solid var(--line); }
figcaption, footer { margin-top: 0.7rem; font: 0.92rem/1.5 var(--sans); color: var(--faint); }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
@media (min-width: 76rem) {  /* what is wider than the text has room beside it */
  pre { width: fit-content; min-width: 100%; max-width: calc(100% + 13rem); }
  figure, .display { margin-inline: -7rem; }
  figcaption { margin-inline: 7rem; }
}
"""
