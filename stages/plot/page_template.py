"""The frame of the HTML report: its head, its styles, and where the parts go.

The policy in the head forbids the page to load anything: it opens from disk, without a network.
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --page: #f7f6f3; --paper: #ffffff; --ink: #20242a; --soft: #5b626c; --line: #dfddd7;
  --accent: #0b62a4; --shade: #efede8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181c; --paper: #1d2126; --ink: #e8e6e1; --soft: #a4abb5; --line: #343a42;
    --accent: #7cc0f2; --shade: #272c33;
  }
}
/* White would glare; multiplied with the card, the figures' white becomes the card's grey. */
@media (prefers-color-scheme: dark) {
  .card { background: #dfdedb !important; border-color: #dfdedb !important; }
  .card img { mix-blend-mode: multiply; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
header, main, footer { max-width: 58rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: clamp(2rem, 6vw, 4.5rem); }
.subtitle { color: var(--soft); margin: 0 0 .5rem; }
h1 {
  font-size: clamp(1.9rem, 1.4rem + 2.4vw, 3rem); line-height: 1.12; letter-spacing: -.02em;
  margin: 0 0 1.25rem; text-wrap: balance;
}
h2 {
  font-size: clamp(1.3rem, 1.15rem + .8vw, 1.7rem); line-height: 1.25; letter-spacing: -.01em;
  margin: 0 0 1rem;
}
.lead {
  font-size: clamp(1.1rem, 1.02rem + .5vw, 1.35rem); line-height: 1.5; max-width: 44rem;
  margin: 0 0 2rem; text-wrap: pretty;
}
p, ul { max-width: 44rem; margin: 0 0 1rem; }
ul { padding-left: 1.25rem; }
li { margin-bottom: .3rem; }
a { color: var(--accent); text-underline-offset: .2em; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 3px; }
code, pre {
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace;
  font-size: .875em;
}
code { overflow-wrap: anywhere; }
pre {
  background: var(--shade); border-radius: 8px; padding: .9rem 1.1rem; overflow-x: auto;
  margin: 0 0 1rem;
}
pre code { overflow-wrap: normal; font-size: 1em; }
nav ul {
  list-style: none; display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; max-width: none;
  padding: .9rem 0; margin: 2rem 0 0; border-block: 1px solid var(--line); font-size: .925rem;
}
nav li { margin: 0; }
nav a { text-decoration: none; display: inline-block; padding: .2rem 0; }
nav a:hover { text-decoration: underline; }
section { padding-top: 3.25rem; scroll-margin-top: -1rem; }
.scores > p { color: var(--soft); font-size: .925rem; margin: 0 0 .5rem; }
.scores dl {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr));
  gap: 1rem; margin: 0;
}
.scores dl > div {
  background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
  padding: 1rem 1.2rem 1.15rem;
}
.scores dt { font-weight: 600; }
.scores dd { margin: .15rem 0 0; }
.scores b {
  font-size: 1.9rem; letter-spacing: -.02em; font-variant-numeric: tabular-nums;
  line-height: 1.3;
}
.scores small { margin-left: .35rem; }
.bar {
  display: block; position: relative; height: 8px; border-radius: 4px; margin-top: .45rem;
  background: var(--shade);
}
.bar i { position: absolute; inset: 0 auto 0 0; border-radius: 4px; background: var(--color); }
.bar .range {
  inset: -3px auto -3px auto; border-radius: 2px; background: none;
  border-inline: 2px solid var(--ink);
}
.bar .range::before {
  content: ""; position: absolute; inset: 6px 0; border-top: 2px solid var(--ink);
}
.swatch {
  display: inline-block; width: .68em; height: .68em; border-radius: 50%; margin-right: .4em;
}
small { color: var(--soft); font-size: .82em; font-weight: 400; white-space: nowrap; }
.scroll {
  overflow-x: auto; background: var(--paper); border: 1px solid var(--line);
  border-radius: 12px; margin: 0 0 1.25rem; max-width: max-content;
}
table {
  border-collapse: separate; border-spacing: 0; font-size: .925rem;
  font-variant-numeric: tabular-nums;
}
caption {
  caption-side: bottom; text-align: left; color: var(--soft); font-size: .85rem;
  padding: .65rem 1rem .75rem; border-top: 1px solid var(--line);
}
caption span { position: sticky; left: 1rem; display: inline-block;
  max-width: calc(100vw - 4.5rem); }
th, td { padding: .45rem 1rem; text-align: right; vertical-align: baseline; }
td { white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
tbody th { font-weight: 500; min-width: 7.5rem; }
@media (min-width: 48rem) { tbody th { white-space: nowrap; } }
.words td, .words th { text-align: left; }
.words td { white-space: normal; min-width: 9rem; }
thead th { font-weight: 600; border-bottom: 1px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--shade); }
td strong { font-weight: 700; }
th code { white-space: nowrap; }
figure { margin: 0 0 1.5rem; }
.card {
  background: #fff; border: 1px solid var(--line); border-radius: 12px;
  padding: clamp(.5rem, 2vw, 1rem); max-width: max-content;
}
img { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 44rem; margin-top: .6rem; }
.beside {
  display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), max-content));
}
details { margin: 0 0 1.25rem; }
summary { cursor: pointer; color: var(--accent); padding: .35rem 0; width: max-content;
  max-width: 100%; }
details[open] > summary { margin-bottom: .6rem; }
footer { padding-top: 3rem; padding-bottom: 3rem; }
@media (max-width: 640px) {
  header, main, footer { padding-inline: 1rem; }
  section { padding-top: 2.5rem; }
  th, td { padding: .45rem .7rem; }
  tbody th { min-width: 6.5rem; }
  td small { display: block; margin: 0; }
}
@media print {
  section { break-inside: avoid-page; }
  nav { display: none; }
}
</style>
</head>
<body>
<header>
<p class="subtitle">$subtitle</p>
<h1>$title</h1>
<p class="lead">$lead</p>
$opening
<nav aria-label="Contents"><ul>
$links
</ul></nav>
</header>
<main>
$body
</main>
<footer></footer>
</body>
</html>
"""
