// What the page asks of its server.

const headers = (key) => ({ "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) });

/** The JSON that an address of this server gives; an error has the `status`. */
export const read = async (address, key) => {
  const response = await fetch(address, { headers: headers(key) });
  if (!response.ok) throw await problem(response);
  return response.json();
};

/** Sends a chat completion, and yields its pieces as they come. */
export async function* ask(body, key, signal) {
  const sent = { method: "POST", headers: headers(key), body: JSON.stringify(body), signal };
  const response = await fetch("v1/chat/completions", sent);
  if (!response.ok) throw await problem(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The server ended before the answer did.");
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const piece = JSON.parse(data);
      if (piece.error) throw new Error(piece.error.message);
      yield piece;
    }
  }
}

const problem = async (response) => {
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // no JSON: the status says what there is to say
  }
  return Object.assign(new Error(message), { status: response.status });
};
