"use strict";
// The boxes of operations on a picture, each in the color of its number.

const COLORS = 5;

const markOf = (number, failed) => (failed ? "failed" : `mark-${((number - 1) % COLORS) + 1}`);

const rectangle = ([left, top, right, bottom], kind, title) => {
  const where = { x: left, y: top, width: Math.max(right - left, 0), height: Math.max(bottom - top, 0) };
  const line = kind === "object" ? "box dashed" : "box";
  return s("g", { class: kind }, s("title", {}, title), s("rect", { class: "halo", ...where }), s("rect", { class: line, ...where }));
};

const tagged = ({ number, box }, width) => {
  const side = width / 18;
  const out = rectangle(box, markOf(number), `operation ${number}: ${box.map(short).join(", ")}`);
  out.append(s("rect", { class: "tag", x: box[0], y: box[1], width: side, height: side }));
  const place = { x: box[0] + side / 2, y: box[1] + side * 0.76, "font-size": side * 0.75, "text-anchor": "middle" };
  out.append(s("text", place, String(number)));
  return out;
};
