"use strict";
// Starts the page, and turns between its views.

const COMPARED = 4; // responses beside each other
const LIVE_SECONDS = 2;
let comparing = false;

/** Called by data/index.js, again when a live run has gone on. */
view.start = (index) => {
  const before = view.list.chosen;
  view.index = index;
  view.chunks.clear();
  document.title = `${index.runs.map((run) => run.name).join(", ")} – Pixel Reasoner`;
  view.showSummary();
  view.list.prepare();
  if (before) view.list.chosen = index.rows.find((row) => ["run", "group", "id", "sample"].every((name) => row[name] === before[name])) || before;
  if (index.live) byId("state").textContent = "following the run";
  if (!view.started) {
    view.started = true;
    show(index.runs.some((run) => run.figures.length || Object.keys(run.curves).length) ? "summary" : "list");
    fromAddress();
    if (index.live) setInterval(() => view.script(`data/version.js?${Date.now()}`, gone), LIVE_SECONDS * 1000);
  } else if (view.stale && view.list.chosen) view.open(view.list.chosen);
  else view.list.draw();
};

/** Called by data/version.js of a live page. */
view.version = (version) => {
  byId("state").textContent = "following the run";
  if (version !== view.index.version) view.script(`data/index.js?${version}`, gone);
};

const gone = () => (byId("state").textContent = "the command that follows the run has ended");

const show = (name) => {
  byId("summary").hidden = name !== "summary";
  byId("browser").hidden = name !== "list";
  for (const tab of ["summary", "list"]) byId(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
  if (name === "list") {
    view.list.draw();
    const wide = matchMedia("(min-width: 801px)").matches;
    if (!view.list.chosen && wide && view.list.rows.length) view.open(view.list.rows[0]);
  }
};

/** Opens a row beside the list; on a phone in its place. */
view.open = async (row) => {
  view.list.chosen = row;
  view.list.draw();
  document.body.classList.add("opened");
  history.replaceState(null, "", `#${view.list.position.get(row) ?? ""}`);
  const rows = comparing ? beside(row) : [row];
  try {
    const details = await Promise.all(rows.map(view.detail));
    if (view.list.chosen !== row) return; // another one was opened meanwhile
    const side = h("div", { class: rows.length > 1 ? "sides" : "" }, rows.map((one, k) => trajectory(one, details[k])));
    byId("detail").replaceChildren(tools(row, details), side);
    byId("detail").scrollTop = 0;
  } catch (error) {
    byId("detail").replaceChildren(tools(row, []), h("p", { class: "missing" }, error.message));
  }
};

/**
 * The responses to the query of a row: of every other run one, of the same step and sample if there is one; in one run
 * other samples, or those of its other evaluations, the first and the last among them.
 */
const beside = (row) => {
  const query = view.query(row);
  const same = view.index.rows.filter((other) => other !== row && view.query(other) === query);
  const found = [row];
  for (let run = 0; run < view.index.runs.length; run++) {
    if (run === row.run) continue;
    const theirs = same.filter((other) => other.run === run);
    const likely = theirs.filter((other) => other.sample === row.sample);
    const one = likely.find((other) => other.group === row.group) || likely[0] || theirs[0];
    if (one) found.push(one);
  }
  if (found.length < 2) {
    const most = COMPARED - 1;
    const near = (k) => same[Math.round((k * (same.length - 1)) / (most - 1))];
    found.push(...(same.length > most ? Array.from({ length: most }, (_, k) => near(k)) : same));
  }
  const place = (other) => view.list.position.get(other);
  return found.slice(0, COMPARED).sort((a, b) => place(a) - place(b));
};

const tools = (row, details) => {
  const button = (id, text, pressed, onclick, title) => h("button", { id, type: "button", "aria-pressed": String(pressed), onclick, title }, text);
  const others = beside(row).length - 1;
  const shaded = details.some((detail) => detail.turns.length);
  const differs = details.some((detail) => detail.turns.some((turn) => turn.trainer));
  return h(
    "div",
    { class: "tools" },
    h("button", { id: "back", type: "button", onclick: close }, "← List"),
    h("button", { id: "previous", type: "button", onclick: () => view.list.step(-1), "aria-label": "previous" }, "↑"),
    h("button", { id: "next", type: "button", onclick: () => view.list.step(1), "aria-label": "next" }, "↓"),
    others ? button("compare", "Side by side", comparing, compare, "the same query in other runs, or other samples of it (c)") : null,
    shaded ? button("tokens", "Log-probabilities", LOOK.tokens === "logprobs", () => look("logprobs"), "each token shaded by how unlikely it was (t)") : null,
    differs ? button("difference", "Sampler − trainer", LOOK.tokens === "difference", () => look("difference"), "each token shaded by the difference of its log-probabilities (d)") : null,
  );
};

const compare = () => {
  comparing = !comparing;
  if (view.list.chosen) view.open(view.list.chosen);
};

const look = (kind) => {
  LOOK.tokens = LOOK.tokens === kind ? "none" : kind;
  if (view.list.chosen) view.open(view.list.chosen);
};

const close = () => {
  document.body.classList.remove("opened");
  view.list.draw();
};

const fromAddress = () => {
  const row = view.index.rows[Number(location.hash.slice(1) || NaN)];
  if (!row) return;
  show("list");
  view.open(row);
};

const KEYS = {
  j: () => view.list.step(1),
  ArrowDown: () => view.list.step(1),
  k: () => view.list.step(-1),
  ArrowUp: () => view.list.step(-1),
  PageDown: () => view.list.step(10),
  PageUp: () => view.list.step(-10),
  c: compare,
  t: () => look("logprobs"),
  d: () => look("difference"),
  s: () => show("summary"),
  Escape: close,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !view.index) return;
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/" || event.key === "l") {
    show("list");
    if (event.key === "/") byId("search").focus();
    event.preventDefault();
  } else if (Object.hasOwn(KEYS, event.key) && (!byId("browser").hidden || event.key === "s")) {
    KEYS[event.key]();
    event.preventDefault();
  }
});
let queued = false;
byId("scroll").addEventListener("scroll", () => {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    view.list.draw();
  });
}, { passive: true });
let typed = 0;
byId("search").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => {
    byId("scroll").scrollTop = 0;
    view.list.filter();
  }, 80);
});
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("tab-summary").addEventListener("click", () => show("summary"));
byId("tab-list").addEventListener("click", () => show("list"));
addEventListener("resize", () => view.index && view.list.draw());
addEventListener("hashchange", fromAddress);
