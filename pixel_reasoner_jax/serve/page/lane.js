// One answer as it is written: pictures with the boxes of crops, the text, the calls and what they returned.

const ENDED = {
  max_tokens: "limit on tokens",
  max_length: "context full",
  max_operations: "limit on operations",
  max_images: "limit on images",
};

/** Whether a browser shows a medium as an image, as it does a video that is a GIF. */
export const isImage = (url) => url.startsWith("data:image/");

/** The answer of one model to one question; `answer` holds what is kept of it. */
export class Lane {
  /**
   * @param model the name of the model
   * @param operates whether operations run
   * @param pictures what the conversation shows: {url, width, height}, or {video} whose frames come with the answer
   */
  constructor(model, operates, pictures) {
    this.answer = { model, operates, content: "", operations: [], frames: [] };
    this.pictures = [];
    this.scenes = h("div", { class: "scenes" });
    this.words = h("div", { class: "words", "aria-live": "polite" });
    this.facts = h("span", { class: "facts" });
    const name = h("header", {}, h("b", {}, model), operates ? null : h("span", { class: "chip" }, "operations off"), this.facts);
    this.element = h("article", { class: "lane" }, name, this.scenes, this.words);
    for (const one of pictures) {
      if (!one.video) this.scenes.append(this.show(one, "image of the conversation"));
      else if (!isImage(one.video)) this.scenes.append(h("video", { src: one.video, controls: true, muted: true }));
    }
    this.began = performance.now();
    this.text = null;
  }

  /** A picture, on which boxes of later crops are drawn; `alt` is for who does not see it. */
  show({ url, width, height }, alt, caption = "") {
    const over = s("svg", { viewBox: `0 0 ${width} ${height}` });
    const image = h("img", { src: url, alt, class: width < 260 ? "small" : "" });
    const stack = h("div", { class: "stack" }, image, over);
    stack.style.aspectRatio = `${width} / ${height}`;
    stack.style.setProperty("--width", `${Math.max(width, 260)}px`);
    this.pictures.push({ over, width, height });
    return h("figure", {}, stack, h("figcaption", {}, `${caption}${Math.round(width)} × ${Math.round(height)} px`));
  }

  /** Takes a piece of the streamed answer. */
  take(piece) {
    if (piece.usage) this.answer.usage = piece.usage;
    for (const { delta, finish_reason } of piece.choices) {
      const extra = delta.pixel_reasoner || {};
      if (extra.frames) this.frames(extra.frames);
      if (delta.content) this.write(delta.content);
      if (extra.operation) this.operation(extra.operation);
      if (finish_reason) Object.assign(this.answer, { finish: finish_reason, ended: extra.ended });
    }
  }

  frames(frames) {
    this.answer.frames = frames;
    const strip = frames.map((frame, k) => this.show(frame, "frame of the video", `frame ${k + 1}, `));
    this.scenes.append(h("div", { class: "strip" }, strip));
  }

  write(text) {
    this.answer.first ??= this.seconds();
    this.answer.content += text;
    if (!this.text) {
      text = text.trimStart();
      if (!text) return;
      this.text = h("p", { class: "text" });
      this.words.append(h("div", { class: "turn" }, this.text));
    }
    this.text.append(text);
  }

  operation(record) {
    this.answer.first ??= this.seconds();
    const number = this.answer.operations.push(record);
    this.text = null; // what follows is another turn
    const mark = markOf(number, record.error !== null);
    const sizes = record.sizes.map(([width, height]) => `${width} × ${height} px`).join(", ");
    const outcome = record.error === null ? `→ ${sizes || "done"}` : `✗ ${record.error.trim()}`;
    const call = h(
      "p",
      { class: `operation ${mark}` },
      h("span", { class: "number" }, String(number)),
      h("b", {}, record.name ?? "unreadable call"),
      h("code", {}, JSON.stringify(record.arguments)),
      h("span", { class: record.error === null ? "outcome" : "error" }, outcome),
    );
    const isFrame = (k) => !record.boxes[k] && record.sources[k] < this.answer.frames.length;
    record.sources.forEach((source, k) => {
      const target = this.pictures[source];
      const box = target && isFrame(k) ? [0, 0, target.width, target.height] : record.boxes[k];
      if (target && box) target.over.append(tagged({ number, box }, target.width));
    });
    const returned = record.images.map((url, k) => {
      const box = record.boxes[k];
      const source = this.pictures[record.sources[k]] || { width: record.sizes[k][0], height: record.sizes[k][1] };
      const [width, height] = box ? [box[2] - box[0], box[3] - box[1]] : [source.width, source.height];
      const alt = `what operation ${number} has returned`;
      return this.show({ url, width, height }, alt, isFrame(k) ? `frame ${record.sources[k] + 1}, ` : "");
    });
    const strip = returned.length ? h("div", { class: "strip" }, returned) : null;
    this.words.append(h("div", { class: `turn observation ${mark}` }, call, strip));
  }

  seconds() {
    return (performance.now() - this.began) / 1000;
  }

  /** Says how the answer ended: by itself, stopped, or with an error. */
  end(error) {
    this.answer.seconds = this.seconds();
    const stopped = error && error.name === "AbortError";
    if (stopped) this.answer.stopped = true;
    if (error && !stopped) {
      this.answer.error = error.message;
      this.words.append(h("p", { class: "error", role: "alert" }, error.message));
    }
    const chip = (text, kind = "chip") => h("span", { class: kind }, text);
    const { usage, seconds, first, ended, operations } = this.answer;
    const parts = [chip(operations.length === 1 ? "1 operation" : `${operations.length} operations`)];
    if (usage) {
      parts.push(chip(`${usage.prompt_tokens} + ${usage.completion_tokens} tokens`));
      parts.push(chip(`${short(usage.completion_tokens / seconds)} a second`));
    }
    if (first !== undefined) parts.push(chip(`first after ${short(first)} s`));
    parts.push(chip(`${short(seconds)} s`));
    if (stopped) parts.push(chip("stopped", "chip bad"));
    if (own(ENDED, ended)) parts.push(chip(ENDED[ended], "chip bad"));
    this.facts.replaceChildren(...parts);
  }
}
