"""How a report looks: one column of reading width, quiet rules, system fonts, light and dark, and on paper."""

CSS = """
:root { color-scheme: light dark; --ink: #1c2128; --quiet: #5c6672; --line: rgba(125,135,148,.3); --paper: #fff; --raised: #f7f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ec; --quiet: #9aa5b1; --line: rgba(125,135,148,.34); --paper: #14181d; --raised: #1b2027; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main, footer { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { padding: 44px 0 6px; }
header p.kind { margin: 0; color: var(--quiet); font-size: .82rem; letter-spacing: .04em; }
h1 { font-size: clamp(1.45rem, 3.2vw, 2.05rem); line-height: 1.22; letter-spacing: -.015em; font-weight: 660; margin: .15em 0 .35em;
  overflow-wrap: anywhere; text-wrap: balance; }
header p.lead { margin: 0; max-width: 72ch; }
h2 { font-size: 1.18rem; letter-spacing: -.005em; margin: 0 0 .3em; }
h3 { font-size: .95rem; margin: 0 0 .35em; overflow-wrap: anywhere; }
p.words { color: var(--quiet); margin: 0 0 1em; max-width: 78ch; }
section { border-top: 1px solid var(--line); margin-top: 34px; padding-top: 22px; }
.dot { display: inline-block; width: .68em; height: .68em; border-radius: 50%; margin-right: .45em; }
.cards, .pictures { display: grid; gap: 16px; }
.cards { grid-template-columns: repeat(auto-fit, minmax(min(100%, 250px), 1fr)); margin-top: 22px; }
.card { background: var(--raised); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; font-size: .9rem; }
.card p { margin: .3em 0 0; }
.card .times { color: var(--quiet); font-size: .8rem; font-variant-numeric: tabular-nums; }
.card dl { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: .75em 0 0; }
.card dt { color: var(--quiet); font-size: .75rem; }
.card dd { margin: 0; font-size: 1.12rem; font-weight: 620; font-variant-numeric: tabular-nums; }
.pictures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); }
.pictures + .pictures { margin-top: 18px; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .88rem; font-weight: 600; margin-bottom: .4em; overflow-wrap: anywhere; }
figcaption small { font-weight: 400; color: var(--quiet); }
.pictures img { display: block; width: 100%; max-width: 380px; height: auto; }
.pictures img.sharp { image-rendering: pixelated; }
.scroll { overflow-x: auto; }
.scroll > .plot { min-width: var(--least, 0); }
.plot { width: 100%; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 8px 20px; }
.plots > div { min-width: 0; }
.strips { max-width: 720px; }
th > div { min-width: 10.8em; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .7rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--quiet); font-weight: 500; font-size: .8rem; vertical-align: bottom; }
tbody th { font-weight: 600; }
tr > th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); white-space: normal; overflow-wrap: anywhere;
  max-width: 20em; }
tr.floor > * { color: var(--quiet); font-weight: 400; }
table.facts th, table.facts td { text-align: left; white-space: normal; vertical-align: top; overflow-wrap: anywhere; }
table.facts th { color: var(--quiet); font-weight: 500; width: 11em; min-width: 7em; position: static; }
.notes { color: var(--quiet); font-size: .86rem; max-width: 90ch; }
details { margin-top: 14px; }
summary { cursor: pointer; font-weight: 560; }
pre { background: var(--raised); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; margin: .6em 0 0;
  font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
#command { user-select: all; }
footer { border-top: 1px solid var(--line); margin-top: 40px; padding-top: 20px; padding-bottom: 56px; color: var(--quiet); font-size: .9rem; }
footer pre { color: var(--ink); }
@media (max-width: 520px) {
  main, footer { padding-left: 16px; padding-right: 16px; }
  header { padding-top: 26px; }
  .pictures.many { grid-template-columns: 1fr 1fr; gap: 10px; }
}
@media print {
  :root { color-scheme: light; --ink: #000; --quiet: #444; --line: #bbb; --paper: #fff; --raised: #fff; }
  body { font-size: 10.5pt; }
  main, footer { max-width: none; padding: 0; }
  header { padding-top: 0; }
  section { margin-top: 18px; padding-top: 12px; }
  h2, h3, figcaption { break-after: avoid; }
  figure, .card, .plots > div, .scroll > .plot, pre, tr { break-inside: avoid; }
  .pictures { grid-template-columns: repeat(3, 1fr); }
  .plots { display: block; }
  .scroll { overflow: hidden; }
  .modebar { display: none; }
}
"""
