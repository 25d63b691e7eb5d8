"use strict";
// What all parts of the page share; see elements.js too.

const view = {
  index: null, // what data/index.js gives
  chunks: new Map(), // number -> details, or the promise of them
  waiting: new Map(), // number -> what to call when it is there, and what if it is of another version
  stale: false, // whether such a one came

  /** Called by the scripts of data/, which hold nothing but JSON. */
  chunk(number, version, details) {
    const [loaded, failed] = view.waiting.get(number) || [];
    view.waiting.delete(number);
    if (!loaded) return;
    view.stale = version !== view.index.version;
    if (view.stale) failed(new Error("The view has been written anew since this page was opened: reload it."));
    else loaded(details);
  },
};

const KEPT_CHUNKS = 12;

/** The details of a row, whose chunk is loaded when it is first needed. */
view.detail = async (row) => {
  const [number, place] = row.at;
  let loading = view.chunks.get(number);
  if (!loading) {
    loading = new Promise((resolve, reject) => {
      view.waiting.set(number, [resolve, reject]);
      view.script(`data/${String(number).padStart(5, "0")}.js?${view.index.version}`, reject);
    });
    view.chunks.set(number, loading);
    loading.catch(() => view.chunks.delete(number));
    if (view.chunks.size > KEPT_CHUNKS) view.chunks.delete(view.chunks.keys().next().value);
  }
  return (await loading)[place];
};

/** Loads a script of this folder, once. */
view.script = (address, failed) => {
  const script = document.createElement("script");
  script.src = address;
  script.onload = () => script.remove();
  script.onerror = () => {
    script.remove();
    if (failed) failed(new Error(`${address} could not be loaded`));
  };
  document.head.append(script);
};

const figure = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));

const interval = (mean, ends) =>
  mean === null ? "–" : ends ? `${figure(mean)} [${figure(ends[0])}, ${figure(ends[1])}]` : figure(mean);

const isRight = (row) => row.score !== null && row.score >= 0.5;

const badge = (row) => {
  if (row.score === null) return null;
  if (row.score > 0 && row.score < 1) return h("span", { class: "chip" }, `score ${row.score.toFixed(2)}`);
  return h("span", { class: row.score ? "chip good" : "chip bad" }, row.score ? "✓ right" : "✗ wrong");
};
