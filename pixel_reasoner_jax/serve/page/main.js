// The conversation: what is asked, of which models, and how it is kept.

import { ask, read } from "./ask.js";
import { Lane, isImage } from "./lane.js";
import { savePage, saveText } from "./save.js";

const TEXT_ALONE = "\n\nPlease think step by step, and put your final answer within \\boxed{}.";
const OFF = " operations off";

const talk = { exchanges: [], media: [], models: [], stopping: null, examples: { image: 0, video: 0 }, wanted: null, begins: true };
globalThis.talk = talk; // for whoever looks into the page

const key = () => byId("key").value;

const complain = (message) => {
  byId("problem").textContent = message;
  byId("problem").hidden = !message;
};

/** Fills in the models that the server has; asks for its key if it wants one. */
const begin = async () => {
  try {
    talk.models = (await read("v1/models", key())).data.map((model) => model.id);
    byId("locked").hidden = true;
    complain("");
  } catch (error) {
    byId("locked").hidden = error.status !== 401;
    return complain(error.message);
  }
  const options = (texts) => texts.map(([value, text]) => h("option", { value }, text));
  byId("model").replaceChildren(...options(talk.models.map((name) => [name, name])));
  besides();
};

/** What may answer beside the chosen model: nothing, itself without operations, the others. */
const besides = () => {
  const chosen = byId("model").value;
  const found = [["", "nothing"], [OFF, "operations off"]];
  for (const name of talk.models) if (name !== chosen) found.push([name, name]);
  byId("beside").replaceChildren(...found.map(([value, text]) => h("option", { value }, text)));
  if (talk.models.length === 2) byId("beside").value = found[2][0];
};

const parts = (media) => media.map(({ kind, url }) => ({ type: `${kind}_url`, [`${kind}_url`]: { url } }));

/** What models are told of what was said: since the last example was asked about, without what all of them refused. */
const told = () => {
  const first = talk.exchanges.findLastIndex((exchange) => exchange.begins);
  const isRefused = ({ answer }) => answer.error && !answer.content;
  return talk.exchanges.slice(Math.max(0, first)).filter(({ lanes }) => !lanes.every(isRefused));
};

/** The messages of a lane: what was asked before, what this lane answered, and the new question. */
const messages = (place, operates) => {
  const said = [];
  for (const { question, media, lanes } of told()) {
    const text = operates ? question : question + TEXT_ALONE;
    said.push({ role: "user", content: [...parts(media), { type: "text", text }] });
    const { content } = lanes[Math.min(place, lanes.length - 1)].answer;
    if (content) said.push({ role: "assistant", content });
  }
  return said;
};

const settings = () => {
  const number = (name) => (byId(name).value === "" ? undefined : Number(byId(name).value));
  return Object.fromEntries(["temperature", "top_p", "max_tokens", "seed"].map((name) => [name, number(name)]));
};

const submit = async () => {
  const question = byId("question").value.trim();
  if (talk.stopping || !talk.models.length) return;
  if (!question) return complain("Ask something.");
  complain("");
  const chosen = byId("model").value;
  const beside = byId("beside").value;
  const asked = [[chosen, true]];
  if (beside) asked.push(beside === OFF ? [chosen, false] : [beside, true]);
  const media = talk.media.splice(0);
  const { begins } = talk;
  talk.begins = false;
  const all = [...(begins ? [] : told()).flatMap((exchange) => exchange.media), ...media];
  const pictures = all.map(({ kind, url, width, height }) => (kind === "video" ? { video: url } : { url, width, height }));
  const exchange = { question, media, begins, settings: settings(), lanes: asked.map(([name, operates]) => new Lane(name, operates, pictures)) };
  talk.exchanges.push(exchange);
  const sides = h("div", { class: exchange.lanes.length > 1 ? "sides" : "" }, exchange.lanes.map((lane) => lane.element));
  const section = h("section", { class: "exchange" }, h("h2", { class: "question" }, question), sides);
  byId("talk").append(section);
  section.scrollIntoView();
  byId("question").value = "";
  drawMedia();
  talk.stopping = new AbortController();
  busy(true);
  await Promise.all(exchange.lanes.map((lane, place) => answer(lane, place, exchange.settings, talk.stopping.signal)));
  talk.stopping = null;
  busy(false);
};

const answer = async (lane, place, sampling, signal) => {
  const { model, operates } = lane.answer;
  const body = { model, messages: messages(place, operates), ...sampling, stream: true };
  body.stream_options = { include_usage: true };
  body.pixel_reasoner = { frames: true };
  if (!operates) body.tools = [];
  try {
    for await (const piece of ask(body, key(), signal)) lane.take(piece);
    lane.end();
  } catch (error) {
    lane.end(error);
  }
};

const busy = (is) => {
  byId("ask").disabled = is;
  byId("stop").disabled = !is;
  byId("state").textContent = is ? "writing …" : "";
};

const stop = () => talk.stopping && talk.stopping.abort();

/** Takes files as media of the next question. */
const take = async (files) => {
  for (const file of files) {
    const kind = file.type.split("/")[0];
    if (kind !== "image" && kind !== "video") complain(`${file.name} is neither an image nor a video.`);
    else await add(kind, await dataUrl(file), file.name);
  }
};

const dataUrl = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });

/** A medium with its size; nothing, and a complaint, if the browser cannot show it. */
const load = async (kind, url, name) => {
  const medium = { kind, url, name };
  if (kind === "image") {
    const image = h("img", { src: url });
    try {
      await image.decode();
    } catch {
      return complain(`${name} cannot be shown: is it an image?`);
    }
    Object.assign(medium, { width: image.naturalWidth, height: image.naturalHeight });
  }
  return medium;
};

const add = async (kind, url, name) => {
  const medium = await load(kind, url, name);
  if (!medium) return;
  talk.media.push(medium);
  drawMedia();
};

const drawMedia = () => {
  const shown = talk.media.map((medium, place) => {
    const preview = isImage(medium.url) ? h("img", { src: medium.url, alt: medium.name }) : h("video", { src: medium.url, muted: true });
    const drop = () => {
      talk.media.splice(place, 1);
      drawMedia();
    };
    return h("figure", { title: medium.name }, preview, h("button", { type: "button", "aria-label": `remove ${medium.name}`, onclick: drop }, "×"));
  });
  byId("media").replaceChildren(...shown);
};

/** Takes an example, in place of other media, as the beginning of a conversation; of several wanted at once the last. */
const example = async (kind) => {
  const wanted = (talk.wanted = {});
  try {
    const { question, url } = await read(`page/examples/${kind}/${talk.examples[kind]++}`, key());
    const medium = await load(kind, url, `example ${kind}`);
    if (talk.wanted !== wanted || !medium) return;
    complain("");
    talk.media = [medium];
    talk.begins = true;
    drawMedia();
    byId("question").value = question;
    byId("question").focus();
  } catch (error) {
    if (talk.wanted === wanted) complain(error.message);
  }
};

const anew = () => {
  stop();
  talk.exchanges = [];
  talk.begins = true;
  byId("talk").replaceChildren();
};

const kept = () => talk.exchanges.map(({ lanes, ...rest }) => ({ ...rest, answers: lanes.map((lane) => lane.answer) }));

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});
byId("open").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = "";
});
byId("model").addEventListener("change", besides);
byId("key").addEventListener("change", begin);
byId("stop").addEventListener("click", stop);
for (const kind of ["image", "video"]) byId(`example-${kind}`).addEventListener("click", () => example(kind));
byId("anew").addEventListener("click", anew);
byId("save-json").addEventListener("click", () => saveText("conversation.json", "application/json", JSON.stringify(kept(), null, 1)));
byId("save-page").addEventListener("click", () => savePage(byId("talk")));
begin();
