"use strict";
// The list: filters, and as many rows in the document as are seen.

const ROW = 62; // pixels, as in view.css
const FLAGS = {
  right: ["Right", (row) => isRight(row)],
  wrong: ["Wrong", (row) => row.score !== null && !isRight(row)],
  failed: ["Operation failed", (row) => row.failed > 0],
  never: ["Never looked", (row) => row.operations <= row.failed],
  flipped: ["Flipped", (row) => view.list.flips.has(row)],
};

view.list = {
  rows: [], // those that pass the filters
  flips: new Map(), // row -> whether the other run has its query right
  active: new Set(),
  chosen: null,

  /** Makes the filters for what is there; the chosen ones stay. */
  prepare() {
    const { runs, rows } = view.index;
    view.list.search = rows.map((row) => [row.id, row.question, row.answer, row.reference, row.text].join("\n").toLowerCase());
    view.list.position = new Map(rows.map((row, k) => [row, k]));
    view.list.sampled = rows.some((row) => row.sample > 0);
    const named = runs.map((run, k) => [String(k), run.name]).filter(([k]) => runs[k].count > 0);
    const flags = Object.entries(FLAGS).filter(([name]) => name !== "flipped" || named.length > 1);
    byId("flags").replaceChildren(
      ...flags.map(([name, [title]]) =>
        h("button", { type: "button", id: `flag-${name}`, "aria-pressed": String(view.list.active.has(name)), onclick: () => toggle(name) }, title),
      ),
    );
    const chosen = Object.fromEntries([...byId("selects").children].map((one) => [one.id, one.value]));
    const distinct = (values) => [...new Set(values)].filter((value) => value).slice(-500);
    byId("selects").replaceChildren(
      ...[
        select("run", "all runs", named, chosen),
        select("other", null, named.map(([k, name]) => [k, `B: ${name}`]), chosen, named[1]?.[0]),
        select("group", "all groups", distinct(rows.map((row) => row.group)).map((name) => [name, name]), chosen),
        select("category", "all categories", distinct(rows.flatMap((row) => row.categories)).map((name) => [name, name]), chosen),
      ].filter((one) => one),
    );
    view.list.filter();
  },

  /** Applies the filters. */
  filter() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter((word) => word);
    const value = (name) => byId(name)?.value || "";
    const [run, group, category] = [value("run"), value("group"), value("category")];
    if (view.list.active.has("flipped")) view.list.flips = findFlips(Number(value("other")));
    const tests = [...view.list.active].map((name) => FLAGS[name][1]);
    const { search } = view.list;
    view.list.rows = view.index.rows.filter(
      (row, k) =>
        (!run || row.run === Number(run)) &&
        (!group || row.group === group) &&
        (!category || row.categories.includes(category)) &&
        tests.every((test) => test(row)) &&
        words.every((word) => search[k].includes(word)),
    );
    const [shown, all] = [view.list.rows.length, view.index.rows.length].map((count) => count.toLocaleString("en"));
    byId("count").textContent = shown === all ? `${all} trajectories` : `${shown} of ${all} trajectories`;
    byId("space").style.height = `${view.list.rows.length * ROW}px`;
    view.list.draw();
  },

  /** Puts the rows that are seen into the document. */
  draw() {
    const scroll = byId("scroll");
    const first = Math.max(0, Math.floor(scroll.scrollTop / ROW) - 6);
    const last = Math.min(view.list.rows.length, Math.ceil((scroll.scrollTop + scroll.clientHeight) / ROW) + 6);
    byId("space").replaceChildren(...view.list.rows.slice(first, last).map((row, k) => item(row, first + k)));
  },

  /** The row that is so many places after the chosen one. */
  step(count) {
    const { rows, chosen } = view.list;
    if (!rows.length) return;
    const at = rows.indexOf(chosen);
    const next = at < 0 ? 0 : Math.min(Math.max(at + count, 0), rows.length - 1);
    const scroll = byId("scroll");
    if (next * ROW < scroll.scrollTop) scroll.scrollTop = next * ROW;
    if ((next + 1) * ROW > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = (next + 1) * ROW - scroll.clientHeight;
    view.open(rows[next]);
  },
};

const toggle = (name) => {
  const { active } = view.list;
  if (!active.delete(name)) active.add(name);
  const opposite = { right: "wrong", wrong: "right" }[name];
  if (active.has(name) && opposite) active.delete(opposite);
  for (const button of byId("flags").children) button.setAttribute("aria-pressed", String(active.has(button.id.slice(5))));
  byId("scroll").scrollTop = 0;
  view.list.filter();
};

const select = (id, all, options, chosen, preset = "") => {
  if (options.length < 2) return null;
  const out = h("select", { id, "aria-label": all || "the run B, against which responses are flipped" }, all && h("option", { value: "" }, all), options.map(([value, text]) => h("option", { value }, text)));
  out.value = own(chosen, id, preset);
  out.addEventListener("change", () => {
    byId("scroll").scrollTop = 0;
    view.list.filter();
  });
  return out;
};

/** What a query is known by in all runs; groups differ where they are episodes. */
view.key = (row) => (/^episode \d+$/.test(row.group) ? row.id : `${row.group}\n${row.id}`);

/** As `key`, for all evaluations of a run alike. */
view.query = (row) => view.key({ ...row, group: row.group.replace(/^evaluation after \d+: /, "") });

/** The responses to queries that one run has right and the other has wrong. */
const findFlips = (other) => {
  const means = new Map();
  for (const row of view.index.rows) {
    if (row.score === null) continue;
    const key = view.key(row);
    if (!means.has(key)) means.set(key, new Map());
    const [sum, count] = means.get(key).get(row.run) || [0, 0];
    means.get(key).set(row.run, [sum + row.score, count + 1]);
  }
  const found = new Map();
  const right = (mean) => mean[0] / mean[1] >= 0.5;
  for (const row of view.index.rows) {
    const of = means.get(view.key(row));
    if (row.run !== other && of?.has(row.run) && of.has(other) && right(of.get(row.run)) !== right(of.get(other)))
      found.set(row, right(of.get(other)));
  }
  return found;
};

const item = (row, place) => {
  const mark = row.score === null ? "none" : row.score > 0 && row.score < 1 ? "part" : isRight(row) ? "right" : "wrong";
  const looked = row.operations ? `${row.operations} op${row.operations > 1 ? "s" : ""}${row.failed ? `, ${row.failed} failed` : ""}` : "did not look";
  const { runs } = view.index;
  const facts = [runs.length > 1 ? runs[row.run].name : "", row.group, row.id, view.list.sampled ? `sample ${row.sample}` : ""].filter((part) => part).join(" · ");
  const out = h(
    "div",
    { class: `item ${mark}`, role: "option", "aria-selected": String(row === view.list.chosen), onclick: () => view.open(row) },
    h("span", { class: "ask" }, row.question || row.id),
    h("span", { class: "said" }, row.answer === null ? h("i", {}, "no answer") : row.answer, h("em", {}, looked)),
    h("span", { class: "facts" }, facts),
  );
  out.style.top = `${place * ROW}px`;
  return out;
};
