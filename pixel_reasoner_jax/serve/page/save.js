// Keeps a conversation: as JSON, or as a page that opens without a server and runs no script.

const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:";

/** Hands a text to the browser as a file. */
export const saveText = (name, type, text) => {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

/** The text of a page with what an element shows. */
export const pageOf = async (element) => {
  const style = await (await fetch("page/serve.css")).text();
  const head = `<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Pixel Reasoner</title><style>${style}</style>`;
  return `<!doctype html>\n<html lang="en"><head>${head}</head><body>${element.outerHTML}</body></html>\n`;
};

export const savePage = async (element) => saveText("conversation.html", "text/html", await pageOf(element));
