"""How the report looks: light, printable on A4, readable on a phone."""

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #57606a; --line: #d4d9df; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: #fff; color: var(--ink); line-height: 1.45;
  font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 0 20px 48px; }
.disclaimer { position: sticky; top: 0; z-index: 1; margin: 0; padding: 6px 20px; text-align: center;
  background: #fff4ce; border-bottom: 1px solid #d9b84a; font-weight: 600; }
h1 { margin: 0 0 4px; font-size: 1.75rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 36px 0 12px; padding-bottom: 4px; font-size: 1.2rem; border-bottom: 1px solid var(--line); }
h3 { margin: 0 0 6px; font-size: 1rem; }
header { margin: 24px 0 16px; }
header p { margin: 0; color: var(--soft); overflow-wrap: anywhere; }
.kicker { font-size: .9rem; letter-spacing: .02em; }
.matters > * { margin: 0 0 10px; padding: 10px 14px; border-left: 5px solid; border-radius: 3px; }
.matters p { margin: 0; }
.matters > p { margin-bottom: 10px; }
.finding.error { background: #fdeceb; border-color: #c4281c; }
.finding.warning { background: #fff7e6; border-color: #d98200; }
.good { background: #eaf6ee; border-color: #2c8a4b; }
.agreement { background: #eef3fa; border-color: #3b6fb5; }
.measured { white-space: nowrap; }
.note, figcaption { margin: 8px 0 0; color: var(--soft); font-size: .9rem; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; background: #000; }
.two, .three { display: grid; gap: 20px; }
.two { grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
.three { grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); }
svg text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; fill: #1b1f24; }
svg text.small { font-size: 13px; fill: #57606a; }
svg.bar { display: block; width: 100%; max-width: 420px; margin-top: 8px; }
svg.chart { display: block; width: 100%; min-width: 520px; max-width: 860px; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .93rem; }
th, td { padding: 5px 10px 5px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; min-width: 4.5em; }
th { color: var(--soft); font-weight: 600; }
td { font-variant-numeric: tabular-nums; }
@page { size: A4; margin: 14mm 12mm 16mm; @bottom-center { content: "Research use only"; font: 9pt sans-serif; } }
@media print {
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  .disclaimer { position: static; }
  .two { grid-template-columns: repeat(2, 1fr); }
  .three { grid-template-columns: repeat(3, 1fr); }
  svg.chart { min-width: 0; }
  .scroll { overflow: visible; }
  h2 { break-after: avoid; }
  tr { break-inside: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
