"use strict";
// Line and interval charts as SVG.

const CHART = { width: 520, height: 250, left: 46, right: 12, top: 12, bottom: 36 };

/** Round numbers from low to high. */
const ticks = (low, high, count) => {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= raw * (1 - 1e-9));
  const out = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) out.push(k * step);
  return out;
};

/**
 * A chart of series {name, points: [[x, y]], band: [[x, low, high]], dots}; one color each, in their order.
 * options: title, label (of x), range ([low, high] of y), reference ([text, y]), ticks ([[x, text]]), names.
 */
const chart = (series, options) => {
  const { width, height, left, right, top, bottom } = CHART;
  const drawn = series.filter((one) => one.points.length);
  const xs = drawn.flatMap((one) => one.points.map((point) => point[0]));
  const ys = drawn.flatMap((one) => one.points.map((point) => point[1]));
  for (const one of drawn) for (const [, low, high] of one.band || []) ys.push(low, high);
  const [x0, x1] = options.domain || spread(Math.min(...xs), Math.max(...xs));
  const [y0, y1] = options.range || spread(Math.min(0, ...ys), Math.max(...ys));
  const px = (x) => left + ((width - left - right) * (x - x0)) / (x1 - x0);
  const py = (y) => top + (height - top - bottom) * (1 - (Math.min(Math.max(y, y0), y1) - y0) / (y1 - y0));
  const out = s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.title });
  const text = (x, y, value, anchor, kind = "tick") => s("text", { class: kind, x, y, "text-anchor": anchor }, value);
  for (const y of ticks(y0, y1, 4)) {
    out.append(s("line", { class: "grid", x1: left, x2: width - right, y1: py(y), y2: py(y) }));
    out.append(text(left - 7, py(y) + 4, short(y), "end"));
  }
  for (const [x, label] of options.ticks || ticks(x0, x1, 6).map((x) => [x, short(x)]))
    out.append(text(px(x), height - bottom + 16, label, "middle"));
  out.append(s("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  out.append(text((left + width - right) / 2, height - 4, options.label, "middle", "label"));
  if (options.reference) {
    const [label, y] = options.reference;
    out.append(s("line", { class: "reference", x1: left, x2: width - right, y1: py(y), y2: py(y) }));
    out.append(text(width - right - 2, py(y) - 5, label, "end", "label"));
  }
  const path = (points) => points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ");
  series.forEach((one, number) => {
    if (!one.points.length) return;
    const group = s("g", { class: `series-${(number % 6) + 1}` });
    for (const [x, low, high] of one.band || [])
      group.append(s("line", { class: "whisker", x1: px(x), x2: px(x), y1: py(low), y2: py(high) }));
    if (!one.scattered) group.append(s("polyline", { class: "line", points: path(one.points) }));
    for (const [x, y, note] of one.dots || one.points.length === 1 ? one.points : []) {
      const circle = s("circle", { class: "dot", cx: px(x), cy: py(y), r: 4 });
      circle.append(s("title", {}, `${one.name}: ${note || `${short(x)}, ${short(y)}`}`));
      group.append(circle);
    }
    out.append(group);
  });
  if (!series.some((one) => one.dots)) out.append(...hover(series, options, px, x0, x1));
  return h("figure", { class: "card plot" }, h("h3", {}, options.title), out);
};

const spread = (low, high) => (high > low ? [low, high] : [low, low + (Math.abs(low) || 1)]);

/** A line under the pointer with the values there. */
const hover = (series, options, px, x0, x1) => {
  const { width, height, left, right, top, bottom } = CHART;
  const line = s("line", { class: "cursor", y1: top, y2: height - bottom, x1: -9, x2: -9 });
  const label = s("text", { class: "value", x: left + 6, y: top + 10 });
  const area = s("rect", { class: "area", x: left, y: top, width: width - left - right, height: height - top - bottom });
  area.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const x = x0 + ((x1 - x0) * (event.clientX - box.left)) / box.width;
    const near = series.map((one) => nearest(one.points, x));
    const at = near.find((point) => point);
    if (!at) return;
    line.setAttribute("x1", px(at[0]));
    line.setAttribute("x2", px(at[0]));
    const values = near.map((point) => (point ? short(point[1]) : "–")).join(" · ");
    label.textContent = `${options.label} ${short(at[0])}: ${values}`;
  });
  area.addEventListener("pointerleave", () => {
    label.textContent = "";
    line.setAttribute("x1", -9);
    line.setAttribute("x2", -9);
  });
  return [line, label, area];
};

const nearest = (points, x) => {
  let best = null;
  for (const point of points) if (!best || Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  return best;
};

/** The names of the runs that are drawn, with their colors; nothing for one. */
const legend = (names, isDrawn) => {
  const shown = names.map((name, k) => [name, k]).filter(([, k]) => isDrawn(k));
  if (shown.length < 2) return null;
  return h("p", { class: "legend" }, shown.map(([name, k]) => h("span", { class: `series-${(k % 6) + 1}` }, h("i"), name)));
};
