"""What pages that show trajectories look alike in, the viewer and all others: colors, charts, and a trajectory."""

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
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; }
code { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
figure { margin: 0; min-width: 0; } figcaption { font-size: 12px; color: var(--faint); margin-top: 3px; }
.meter i { display: block; height: 100%; border-radius: 2px; background: var(--accent); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 13.5px; }
.legend i { display: inline-block; width: 16px; height: 3px; border-radius: 2px; vertical-align: 3px;
  margin-right: 7px; background: currentColor; }
.chart { width: 100%; height: auto; display: block; font-size: 11.5px; }
.chart polyline { fill: none; stroke: currentColor; stroke-width: 2.25; stroke-linejoin: round;
  stroke-linecap: round; }
.chart .dot { fill: currentColor; }
.chart .grid { stroke: var(--rule); } .chart .axis { stroke: var(--faint); }
.chart .tick { fill: var(--soft); font-variant-numeric: tabular-nums; } .chart .label { fill: var(--soft);
  paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
.chart .reference { stroke: var(--faint); stroke-dasharray: 5 4; }
.trajectory header { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 8px; font-size: 12.5px; }
.question { font-size: 18px; line-height: 1.35; margin: 8px 0 16px; white-space: pre-wrap; overflow-wrap: anywhere;
  max-height: 40vh; overflow-y: auto; }
.columns { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); gap: 24px; align-items: start; }
.columns:has(> .scenes:empty) { grid-template-columns: minmax(0, 1fr); } .scenes:empty { display: none; }
.scenes { display: grid; gap: 12px; }
.stack { position: relative; width: fit-content; max-width: 100%; overflow: hidden; border-radius: 6px;
  outline: 1px solid var(--rule); background: var(--wash); }
.stack img { display: block; max-width: 100%; height: auto; }
.stack svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.seen { max-width: 45%; } .seen img { image-rendering: pixelated; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)); gap: 8px; margin-bottom: 6px; }
.observation .strip { grid-template-columns: repeat(auto-fit, minmax(130px, 320px)); }
.where { margin-left: auto; color: var(--faint); overflow-wrap: anywhere; }
.chip { padding: 1px 9px; border-radius: 99px; background: var(--wash); color: var(--soft); overflow-wrap: anywhere; }
.chip.good { background: var(--good-wash); color: var(--good); font-weight: 600; }
.chip.bad { background: var(--bad-wash); color: var(--bad); font-weight: 600; }
svg .halo, svg .box { fill: none; vector-effect: non-scaling-stroke; stroke-width: 2px; }
svg .halo { stroke: #fff; stroke-opacity: 0.75; stroke-width: 4px; } svg .box { stroke: var(--mark); }
svg .dashed { stroke: var(--good); stroke-dasharray: 5 4; } svg .object .halo { stroke-opacity: 0.5; }
svg .tag { fill: var(--mark); } svg g[class^=mark] text { fill: var(--card); font-weight: 700; }
.mark-1 { --mark: var(--mark-1); } .mark-2 { --mark: var(--mark-2); } .mark-3 { --mark: var(--mark-3); }
.mark-4 { --mark: var(--mark-4); } .mark-5 { --mark: var(--mark-5); } .failed { --mark: var(--bad); }
.turn { padding-left: 14px; border-left: 2px solid var(--rule); margin-bottom: 14px; }
.observation { border-left-color: var(--mark, var(--rule)); }
.role { display: block; font-size: 11.5px; font-weight: 600; color: var(--faint); margin-bottom: 2px; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 6px; }
.masked { text-decoration: underline dotted var(--faint); text-underline-offset: 4px; }
.tokens span { border-radius: 3px; } .tokens em { color: var(--faint); font-size: 12.5px; }
.above { background: color-mix(in srgb, var(--mark-1) calc(var(--share) * 0.6), transparent); }
.below { background: color-mix(in srgb, var(--series-1) calc(var(--share) * 0.6), transparent); }
.operation { font-size: 13.5px; margin: 4px 0 6px; overflow-wrap: anywhere; color: inherit; }
.operation summary { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 8px; width: auto;
  color: inherit; }
.operation summary > .masked { flex: 0 1 calc(100% - 30px); }
.operation code { color: var(--soft); min-width: 0; }
.number { flex: none; width: 18px; height: 18px; border-radius: 4px; background: var(--mark); color: var(--card);
  font-size: 11.5px; font-weight: 700; line-height: 18px; text-align: center; }
.outcome, .error { white-space: pre-wrap; min-width: 0; } .outcome { color: var(--soft); }
.error { color: var(--bad); }
.missing { color: var(--faint); font-style: italic; }
details { font-size: 13px; color: var(--soft); margin: 2px 0 6px; }
summary { cursor: pointer; width: fit-content; color: var(--faint); } summary:hover { color: var(--ink); }
details .text { font-size: 12.5px; background: var(--wash); border-radius: 6px; padding: 8px 10px; margin-top: 4px; }
.verdict { display: flex; flex-wrap: wrap; gap: 2px 18px; padding: 8px 12px; border-radius: 8px; margin-bottom: 10px;
  background: var(--wash); overflow-wrap: anywhere; } .verdict span { min-width: 0; }
.verdict.good { background: var(--good-wash); } .verdict.bad { background: var(--bad-wash); }
.verdict.good b:first-child { color: var(--good); } .verdict.bad span:first-child b { color: var(--bad); }
.wanted { color: var(--soft); }
.rewards { border-collapse: collapse; margin: 4px 0 12px; font-size: 13.5px; font-variant-numeric: tabular-nums; }
.rewards th { text-align: left; font-weight: 400; color: var(--soft); padding: 2px 24px 2px 12px;
  overflow-wrap: anywhere; } .rewards td { text-align: right; }
.rewards .sum > * { font-weight: 600; color: var(--ink); } .rewards .sum:nth-last-child(2) > * {
  border-top: 1px solid var(--rule); }
"""
