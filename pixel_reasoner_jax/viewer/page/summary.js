"use strict";
// The figures, alarms and curves of all sources.

// What a run is judged by, in this order; all other metrics are below them.
const MAIN_CURVES = {
  reward: "Reward",
  accuracy: "Accuracy",
  rapr: "RaPR, the rate of pixel-space reasoning",
  operations: "Operations per response",
  failure_rate: "Failed operations",
  uniform_groups: "Groups with equal rewards",
  entropy: "Entropy",
  response_tokens: "Tokens per response",
  logprob_difference: "Sampler less trainer, log-probability",
  loss: "Loss",
};
const RATES = new Set(["accuracy", "rapr", "failure_rate", "uniform_groups", "truncated", "clip_fraction"]);

view.showSummary = () => {
  const { runs } = view.index;
  const names = runs.map((run) => run.name);
  const open = byId("more")?.open;
  const parts = [
    h("h1", {}, names.length === 1 ? names[0] : `${names.length} sources side by side`),
    alarms(runs),
    table(runs),
    skips(runs),
    ...curves(runs, names, open),
    ...resolutions(names),
  ];
  byId("summary").replaceChildren(...parts.filter((part) => part));
};

const table = (runs) => {
  const head = ["", "Score", "Items", "RaPR", "Operations", "Failed"];
  const rows = runs.flatMap((run) => {
    const none = run.kind === "run" ? "no samples were stored (train.log_samples)" : "no trajectories";
    const some = `${run.count.toLocaleString("en")} ${run.count === 1 ? "trajectory" : "trajectories"}`;
    const count = `${run.kind}, ${run.count ? some : none}`;
    const title = h("tr", { class: "run" }, h("th", { scope: "rowgroup", colSpan: 6 }, run.name, " ", h("small", {}, count)));
    return [title, ...run.figures.map(line)];
  });
  return h(
    "div",
    { class: "card scrolls" },
    h("table", {}, h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)),
  );
};

const line = (figures) =>
  h(
    "tr",
    { class: figures.depth ? "part" : "whole" },
    h("th", { scope: "row" }, figures.name),
    h("td", {}, withMeter(figures.score, figures.interval)),
    h("td", {}, figures.count === null ? "–" : figures.count.toLocaleString("en")),
    h("td", {}, withMeter(figures.rapr, figures.rapr_interval)),
    h("td", {}, figure(figures.operations)),
    h("td", {}, figure(figures.failure_rate)),
  );

/** A share with its interval, in numbers and as a bar that ends in a mark, behind which the interval is shaded. */
const withMeter = (mean, ends) => {
  if (mean === null) return ["–"];
  const percent = (value) => `${(100 * Math.min(Math.max(value, 0), 1)).toFixed(1)}%`;
  const [bar, mark] = [h("i"), h("u")];
  bar.style.width = mark.style.left = percent(mean);
  const range = h("b");
  if (ends) {
    range.style.left = percent(ends[0]);
    range.style.width = percent(ends[1] - ends[0]);
  }
  return [interval(mean, ends), h("span", { class: "meter" }, bar, ends ? range : null, mark)];
};

const alarms = (runs) => {
  const found = runs.flatMap((run) => run.alarms.map((alarm) => ({ run, ...alarm })));
  if (!found.length) return null;
  found.sort((a, b) => b.now - a.now || b.last - a.last);
  return h(
    "section",
    { class: "alarms" },
    found.map((alarm) =>
      h(
        "details",
        { class: alarm.now ? "alarm now" : "alarm" },
        h(
          "summary",
          {},
          h("b", {}, alarm.now ? "Alarm " : "Earlier alarm "),
          `${runs.length > 1 ? `${alarm.run.name}: ` : ""}${alarm.says} `,
          h("small", {}, alarm.first === alarm.last ? `step ${alarm.first}` : `steps ${alarm.first} to ${alarm.last}`),
        ),
        h("p", {}, `Try ${alarm.advice}.`),
      ),
    ),
  );
};

const skips = (runs) => {
  const found = runs.flatMap((run) => run.skipped.map((one) => ({ run, ...one })));
  if (!found.length) return null;
  return h(
    "details",
    { class: "skipped" },
    h("summary", {}, `${found.reduce((sum, one) => sum + one.count, 0).toLocaleString("en")} records are not shown`),
    h("ul", {}, found.map((one) => h("li", {}, `${one.run.name}: ${one.count} × ${one.reason} (first: ${one.first})`))),
  );
};

const curves = (runs, names, open) => {
  const known = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))];
  if (!known.length) return [];
  const shown = known.filter((name) => Object.hasOwn(MAIN_CURVES, name) || /^(evaluation|validation|eval)[_/]/.test(name));
  const order = Object.keys(MAIN_CURVES);
  shown.sort((a, b) => (order.indexOf(a) + 1 || 99) - (order.indexOf(b) + 1 || 99));
  const of = (name) => runs.map((run) => ({ name: run.name, points: own(run.curves, name, []) }));
  const floor = runs.map((run) => run.floor).find((value) => value !== null);
  const one = (name) =>
    chart(of(name), {
      title: own(MAIN_CURVES, name, name),
      label: "step",
      range: RATES.has(name) || /\/(score|rapr|failure_rate)$/.test(name) ? [0, 1] : null,
      reference: name === "rapr" && floor !== undefined ? [`curiosity pays below ${short(floor)}`, floor] : null,
    });
  const rest = known.filter((name) => !shown.includes(name)).sort();
  const more = h("details", { id: "more", open: Boolean(open) }, h("summary", {}, `${rest.length} more curves`));
  const grid = h("div", { class: "charts" });
  const draw = () => more.open && !grid.childElementCount && grid.append(...rest.map(one));
  more.append(grid);
  more.addEventListener("toggle", draw);
  draw();
  return [
    h("h2", {}, "Training"),
    legend(names, (k) => Object.keys(runs[k].curves).length > 0),
    h("div", { class: "charts" }, shown.map(one), againstEachOther(runs)),
    rest.length ? more : null,
  ];
};

/** The way of each run through the plane of RaPR and accuracy. */
const againstEachOther = (runs) => {
  const series = runs.map((run) => {
    const accuracy = new Map(own(run.curves, "accuracy", []));
    const both = (own(run.curves, "rapr", [])).filter(([step]) => accuracy.has(step));
    const every = Math.ceil(both.length / 40) || 1;
    const few = both.filter((_, k) => k % every === 0 || k === both.length - 1);
    return {
      name: run.name,
      dots: true,
      points: few.map(([step, rate]) => [rate, accuracy.get(step), `step ${step}: RaPR ${short(rate)}, accuracy ${short(accuracy.get(step))}`]),
    };
  });
  if (!series.some((one) => one.points.length > 1)) return null;
  return chart(series, { title: "Accuracy against RaPR, along the run", label: "RaPR", range: [0, 1], domain: [0, 1] });
};

const resolutions = (names) => {
  const { runs, charts } = view.index;
  const titles = { resolution: "Accuracy by resolution", object: "Accuracy by the object's share of the image" };
  const labels = { resolution: "megapixels of the image", object: "share of the image" };
  const plots = Object.entries(charts)
    .filter(([, bins]) => bins.length)
    .map(([name, bins]) => {
      const scale = name === "resolution" ? 1e6 : 1;
      const most = Math.max(...bins.map((one) => one.length));
      const series = bins.map((one, k) => ({
        name: names[k],
        dots: true,
        points: one.map((bin, x) => [x + k * 0.06, bin.score, `${bin.count} responses, ${interval(bin.score, bin.interval)}`]),
        band: one.map((bin, x) => [x + k * 0.06, ...bin.interval]),
      }));
      const first = bins.find((one) => one.length === most);
      const range = (bin) => [...new Set(bin.range.map((value) => short(Number((value / scale).toPrecision(2)))))].join(" to ");
      const options = { title: titles[name], label: labels[name], range: [0, 1], domain: [-0.5, most - 0.5] };
      return chart(series, { ...options, ticks: first.map((bin, x) => [x, range(bin)]) });
    });
  const scattered = runs.map((run) => ({
    name: run.name,
    dots: true,
    scattered: true,
    points: run.figures.filter((one) => !one.depth && one.score !== null && one.rapr !== null).map((one) => [one.rapr, one.score, `${one.name}: RaPR ${figure(one.rapr)}, score ${interval(one.score, one.interval)}`]),
    band: run.figures.filter((one) => !one.depth && one.interval && one.rapr !== null).map((one) => [one.rapr, ...one.interval]),
  }));
  if (scattered.flatMap((one) => one.points).length > 1)
    plots.push(chart(scattered, { title: "Score against RaPR", label: "RaPR", range: [0, 1], domain: [0, 1] }));
  if (!plots.length) return [];
  return [h("h2", {}, "What the score depends on"), legend(names, (k) => runs[k].figures.length > 0), h("div", { class: "charts" }, plots)];
};
