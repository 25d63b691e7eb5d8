"use strict";
// One trajectory as report/entries.py describes it; report/trajectory_html.py draws the same without a script.

const LOOK = { tokens: "none" }; // how the assistant's text is shown: plainly, or token by token
const SMALLEST = 260; // pixels in which a picture is shown at least, if there is room

/** One response as an article. */
const trajectory = (row, detail) => {
  const talk = h("div", { class: "talk" });
  const first = detail.messages.findIndex((message) => message.role === "assistant");
  const split = first < 0 ? detail.messages.length : first;
  talk.append(...turns(detail, detail.messages.slice(split)), verdict(row, detail));
  const money = rewards(row, detail);
  if (money) talk.append(money);
  talk.append(split ? prompt(detail.messages.slice(0, split), split === detail.messages.length) : textsAlone());
  return h(
    "article",
    { class: "trajectory" },
    heading(row, detail),
    h("h2", { class: "question" }, detail.question),
    h("div", { class: "columns" }, h("div", { class: "scenes" }, scenes(detail, split)), talk),
  );
};

const heading = (row, detail) => {
  const chip = (text, kind = "chip") => h("span", { class: kind }, text);
  const parts = [badge(row), chip(row.operations === 1 ? "1 operation" : `${row.operations} operations`)];
  if (row.failed) parts.push(chip(`${row.failed} failed`, "chip bad"));
  if (row.tokens) parts.push(chip(`${row.tokens.toLocaleString("en")} tokens written`));
  if (detail.stopped) parts.push(chip(`stopped: ${detail.stopped}`, "chip bad"));
  if (row.advantage !== null) parts.push(chip(`advantage ${row.advantage > 0 ? "+" : ""}${short(row.advantage)}`));
  if (detail.version !== null) parts.push(chip(`policy after ${detail.version} updates`));
  for (const name of row.categories) parts.push(chip(name));
  const { runs } = view.index;
  const where = [runs.length > 1 ? runs[row.run].name : "", row.group, row.id, `sample ${row.sample}`];
  return h("header", {}, parts, h("span", { class: "where" }, where.filter((part) => part).join(" · ")));
};

/** The query's pictures, with the boxes of all crops on them. */
const scenes = (detail, split) => {
  const out = [];
  let number = 0;
  for (const message of detail.messages.slice(0, split))
    for (const item of message.items) {
      const frames = item.frames || [];
      const all = (item.images || frames).map((image, k) => {
        const boxes = detail.boxes.filter((box) => box.picture === number);
        const object = number === 0 ? detail.object : null;
        number++;
        return picture(image, boxes, object, frames.length ? `frame ${k + 1}` : "");
      });
      if (frames.length) out.push(h("div", { class: "strip" }, all));
      else out.push(...all);
      if (item.seen) {
        const small = picture(item.seen, [], null, `as the model saw it first: ${item.seen.width} × ${item.seen.height} px`);
        small.className = "seen";
        out.push(small);
      }
    }
  return out;
};

/** A picture, or the part of it that a crop shows; boxes are in its pixels. Loaded when it is scrolled into view. */
const picture = (image, boxes = [], object = null, caption = "") => {
  if (!image) return h("p", { class: "missing" }, "The image is not available.");
  const [left, top, right, bottom] = image.box || [0, 0, image.width, image.height];
  const [width, height] = [right - left, bottom - top];
  const stack = h("div", { class: "stack" });
  stack.style.aspectRatio = `${width} / ${height}`;
  stack.style.maxWidth = `${Math.max(width, SMALLEST)}px`;
  const shown = h("img", { loading: "lazy", decoding: "async", alt: caption || "image of the trajectory", class: width < SMALLEST ? "small" : "", src: `images/${image.file}` });
  shown.style.width = `${(100 * image.width) / width}%`;
  shown.style.left = `${(-100 * left) / width}%`;
  shown.style.top = `${(-100 * top) / height}%`;
  stack.append(shown);
  if (boxes.length || object) {
    const over = s("svg", { viewBox: `0 0 ${width} ${height}` });
    if (object) over.append(rectangle(object, "object", "what the question is about"));
    for (const box of boxes) over.append(tagged(box, width));
    stack.append(over);
  }
  const size = `${Math.round(width)} × ${Math.round(height)} px`;
  return h("figure", {}, stack, h("figcaption", {}, caption || size));
};

/** What the assistant wrote, its calls, and what they returned. */
const turns = (detail, messages) => {
  let turn = -1;
  return messages.map((message) => {
    if (message.role !== "assistant") {
      const calls = callsOf(detail, turn);
      const last = calls[calls.length - 1];
      const kind = last ? markOf(last[0], last[1].error !== null) : "";
      return observation(message, `turn observation ${kind}`, !detail.says_loss);
    }
    turn++;
    const tokens = detail.turns[turn];
    const written = LOOK.tokens !== "none" && tokens ? [tokenText(tokens)] : message.items.map(plainText);
    const calls = callsOf(detail, turn).map(([number, record]) => operation(number, record));
    return h("div", { class: "turn" }, h("span", { class: "role" }, `Turn ${turn + 1}`), written, calls);
  });
};

const callsOf = (detail, turn) =>
  detail.operations.map((record, k) => [k + 1, record]).filter(([, record]) => record.turn === turn);

/** A paragraph, marked by whether it carries loss; nothing for no text. */
const paragraph = (text, trained) =>
  text.trim() ? h("p", { class: trained ? "text trained" : "text masked", title: trained ? "" : "carries no loss" }, text.trim()) : null;

const plainText = (item) => paragraph(item.text || "", item.train !== false);

/** Parts in a row, underlined if they carry no loss. */
const marked = (trained, ...parts) => (trained ? parts : h("span", { class: "masked", title: "carries no loss" }, parts));

const operation = (number, record) => {
  const failed = record.error !== null;
  const size = (pair) => `${pair[0]} × ${pair[1]} px`;
  const result = failed ? `✗ ${record.error.trim()}` : `→ ${record.sizes.slice(0, 3).map(size).join(", ") || "done"}`;
  const asked = [h("b", {}, record.name === null ? "unreadable call" : record.name), " ", h("code", {}, record.arguments)];
  return h(
    "details",
    { class: `operation ${markOf(number, failed)}` },
    h(
      "summary",
      {},
      h("span", { class: "number" }, String(number)),
      marked(record.train, ...asked),
      " ",
      h("span", { class: failed ? "error" : "outcome" }, result),
    ),
    paragraph(record.call, record.train),
  );
};

const observation = (message, kind, trained) => {
  const images = message.items.flatMap((item) => item.images || item.frames || []);
  const text = message.items.map((item) => item.text || "").join("");
  const shown = paragraph(text, trained);
  const role = message.role === "user" || message.role === "tool" ? "Observation" : message.role;
  return h(
    "div",
    { class: kind },
    h("span", { class: "role" }, marked(trained, role)),
    images.length ? h("div", { class: "strip" }, images.map((image) => picture(image))) : null,
    images.length && shown ? h("details", {}, h("summary", {}, "text"), shown) : shown,
  );
};

/** The tokens of a turn, shaded by how unlikely they were, or by how far sampler and trainer differ. */
const tokenText = (tokens) => {
  const out = h("p", { class: "text tokens" });
  const differs = LOOK.tokens === "difference";
  if (differs && !tokens.trainer)
    return h("p", { class: "missing" }, "The trainer's log-probabilities of this response were not stored.");
  tokens.logprobs.forEach((sampler, k) => {
    const other = tokens.trainer ? tokens.trainer[k] : null;
    const value = differs ? (sampler === null || other === null ? null : sampler - other) : sampler;
    const text = tokens.texts ? tokens.texts[k] : `${tokens.ids[k]} `;
    const span = h("span", { title: `${sampler === null ? "–" : sampler.toFixed(4)}${other === null ? "" : `, trainer ${other.toFixed(4)}`}` }, text);
    if (value !== null) {
      const share = differs ? Math.min(Math.abs(value) / 0.1, 1) : Math.min(-value / 4, 1);
      span.className = differs && value < 0 ? "below" : "above";
      span.style.setProperty("--share", `${Math.round(100 * Math.max(share, 0))}%`);
    }
    out.append(span);
  });
  if (tokens.more) out.append(h("em", {}, ` … ${tokens.more} tokens more`));
  if (!tokens.texts) out.prepend(h("em", {}, "Without a tokenizer tokens have numbers (view --model DIR): "));
  return out;
};

const verdict = (row, detail) => {
  const state = row.score === null ? "" : isRight(row) ? "good" : "bad";
  return h(
    "div",
    { class: `verdict ${state}` },
    h("span", {}, "answer: ", detail.answer ? h("b", {}, detail.answer) : h("i", { class: "missing" }, "none in a box")),
    detail.reference ? h("span", { class: "wanted" }, "reference: ", h("b", {}, detail.reference)) : null,
    detail.recovered ? null : h("span", { class: "wanted" }, "the last operation failed, which training counts as wrong"),
    detail.problem ? h("span", { class: "error" }, detail.problem) : null,
  );
};

const rewards = (row, detail) => {
  const terms = Object.entries(detail.terms);
  if (row.reward === null && !terms.length) return null;
  const line = (name, value, kind = "") => h("tr", { class: kind }, h("th", { scope: "row" }, name), h("td", {}, value === null ? "–" : value.toFixed(4)));
  return h(
    "table",
    { class: "rewards" },
    h("tbody", {}, terms.map(([name, value]) => line(name, value)), line("reward", row.reward, "sum"), line("advantage", row.advantage, "sum")),
  );
};

const textsAlone = () =>
  h("p", { class: "missing" }, "Of this response the text alone was kept: no images, prompt or tokens are there to be shown.");

const prompt = (messages, open) =>
  h(
    "details",
    { class: "prompt", open },
    h("summary", {}, "Prompt"),
    messages.map((message) => h("div", { class: "turn" }, h("span", { class: "role" }, message.role), message.items.map(promptItem))),
  );

const promptItem = (item) => {
  if (item.text !== undefined) return h("p", { class: "text" }, item.text);
  const [first] = item.images || item.frames;
  const size = first ? `, ${first.width} × ${first.height} px` : "";
  return h("p", { class: "note" }, `[${item.frames ? `video, ${item.frames.length} frames` : "image"}${size}]`);
};
