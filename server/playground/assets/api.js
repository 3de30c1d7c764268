// The server, as any client sees it: the public routes, the key, and errors in its own words.

const KEY = "dyvte.key";

/** What the server refused, or (`lost`) that it could not be asked to the end. */
export class Refusal extends Error {
  constructor(message, { status = 0, code = "", id = "", retryAfter = "", lost = false } = {}) {
    super(message);
    this.status = status;
    this.lost = lost;
    this.facts = [
      status ? `HTTP ${status}` : "", code, retryAfter ? `try again in ${retryAfter} s` : "", id,
    ].filter((fact) => fact && !message.includes(fact));
  }
}

/** The API key of this tab. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  keep: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

async function refusal(response) {
  const about = {
    status: response.status,
    id: response.headers.get("X-Request-Id") ?? "",
    retryAfter: response.headers.get("Retry-After") ?? "",
  };
  try {
    const { error } = await response.json();
    return new Refusal(error.message, { ...about, code: error.code ?? "" });
  } catch {
    return new Refusal("The answer is not one of this server's; is there a proxy in between?", about);
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server cannot be reached. It may be stopped or restarting.", { lost: true });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The base model's card. */
export async function model() {
  const { data } = await (await request("v1/models")).json();
  return data[0];
}

/** What the server says of its routes. */
export async function schema() {
  return (await request("openapi.json")).json();
}

/** The `data` of each server-sent event. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

/** The chunks of a streamed answer; throws if it breaks off. */
export async function* chat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const id = response.headers.get("X-Request-Id") ?? "";
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refusal(chunk.error.message, { code: chunk.error.code ?? "", id });
      yield chunk;
    }
  } catch (error) {
    if (error instanceof Refusal || error.name === "AbortError") throw error;
  }
  throw new Refusal("The connection ended before the answer did.", { id, lost: true });
}
