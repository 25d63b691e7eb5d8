"""What pages that show trajectories look alike in, reports and the viewer: colors, charts and turns."""

STYLE = """\
:root { color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --ink: #1b2230; --soft: #5c6675; --faint: #8a94a3; --rule: #e3e6eb;
  --wash: #f0f2f5;
  --good: #15803d; --good-wash: #e4f5ea; --bad: #b42318; --bad-wash: #fdecea; --accent: #2457c5;
  --series-1: #2563eb; --series-2: #d9480f;
  --mark-1: #d9480f; --mark-2: #7c3aed; --mark-3: #0f8a7e; --mark-4: #c2255c; --mark-5: #a16207; }
@media (prefers-color-scheme: dark) { :root {
  --page: #10141b; --card: #181d26; --ink: #e6e9ef; --soft: #a4adbb; --faint: #737e8f; --rule: #2a313d;
  --wash: #1f2530;
  --good: #5fd08b; --good-wash: #16301f; --bad: #ff8f80; --bad-wash: #3a1d1b; --accent: #8ab0ff;
  --series-1: #6ea0ff; --series-2: #ff9557;
  --mark-1: #ff9557; --mark-2: #b794ff; --mark-3: #3fcabb; --mark-4: #ff7fb0; --mark-5: #e3b341; } }
code { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
figure { margin: 0; min-width: 0; } figcaption { font-size: 12px; color: var(--faint); margin-top: 3px; }
.chart .grid { stroke: var(--rule); } .chart .axis { stroke: var(--faint); }
.chart .tick { fill: var(--soft); font-variant-numeric: tabular-nums; } .chart .label { fill: var(--soft);
  paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
.chart .reference { stroke: var(--faint); stroke-dasharray: 5 4; }
.where { margin-left: auto; color: var(--faint); overflow-wrap: anywhere; }
.chip { padding: 1px 9px; border-radius: 99px; background: var(--wash); color: var(--soft); overflow-wrap: anywhere; }
.chip.good { background: var(--good-wash); color: var(--good); font-weight: 600; }
.chip.bad { background: var(--bad-wash); color: var(--bad); font-weight: 600; }
svg .halo, svg .box { fill: none; vector-effect: non-scaling-stroke; stroke-width: 2px; }
svg .halo { stroke: #fff; stroke-opacity: 0.75; stroke-width: 4px; } svg .box { stroke: var(--mark); }
svg .tag { fill: var(--mark); } svg g[class^=mark] text { fill: var(--card); font-weight: 700; }
.mark-1 { --mark: var(--mark-1); } .mark-2 { --mark: var(--mark-2); } .mark-3 { --mark: var(--mark-3); }
.mark-4 { --mark: var(--mark-4); } .mark-5 { --mark: var(--mark-5); } .failed { --mark: var(--bad); }
.turn { padding-left: 14px; border-left: 2px solid var(--rule); margin-bottom: 14px; }
.observation { border-left-color: var(--mark, var(--rule)); }
.role { display: block; font-size: 11.5px; font-weight: 600; color: var(--faint); margin-bottom: 2px; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 6px; }
.masked { text-decoration: underline dotted var(--faint); text-underline-offset: 4px; }
.operation { font-size: 13.5px; margin: 4px 0 6px; overflow-wrap: anywhere; }
.operation code { color: var(--soft); min-width: 0; }
.number { flex: none; width: 18px; height: 18px; border-radius: 4px; background: var(--mark); color: var(--card);
  font-size: 11.5px; font-weight: 700; line-height: 18px; text-align: center; }
.outcome { color: var(--soft); white-space: pre-wrap; min-width: 0; } .error { color: var(--bad); }
.missing { color: var(--faint); font-style: italic; }
details { font-size: 13px; color: var(--soft); margin: 2px 0 6px; }
summary { cursor: pointer; width: fit-content; color: var(--faint); } summary:hover { color: var(--ink); }
details .text { font-size: 12.5px; background: var(--wash); border-radius: 6px; padding: 8px 10px; margin-top: 4px; }
.verdict { display: flex; flex-wrap: wrap; gap: 2px 18px; padding: 8px 12px; border-radius: 8px;
  background: var(--wash); overflow-wrap: anywhere; }
.verdict.good { background: var(--good-wash); } .verdict.bad { background: var(--bad-wash); }
.verdict.good b:first-child { color: var(--good); } .verdict.bad span:first-child b { color: var(--bad); }
.wanted { color: var(--soft); }
"""
