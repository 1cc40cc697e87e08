// The HTTP API. Refusals become errors with the server's own sentence.

export class Refusal extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

const OFFLINE = "The server does not answer. Your work is kept in this browser: start the server again, then go on.";
const RETRIES = 4;
const warned = new Set(); // what answers have said, since somebody asked, of files that could mean two things

/** JSON of a request; waits and tries again where the server is busy. `signal` cancels. */
export async function ask(path, { method = "GET", form = null, signal = null, retries = RETRIES } = {}) {
  for (let tries = 0; ; tries++) {
    let response;
    try {
      response = await fetch(path, { method, body: form, signal, headers: { Accept: "application/json" } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(OFFLINE, 0);
    }
    if (response.ok) {
      const answer = await response.json();
      for (const each of answer.warnings ?? []) warned.add(each);
      return answer;
    }
    const wait = Number(response.headers.get("Retry-After"));
    if (response.status === 503 && wait && wait < 10 && tries < retries) {
      await pause(wait * 1000, signal);
      continue;
    }
    const answer = await response.json().catch(() => ({}));
    throw new Refusal(answer.detail || `The server answers ${response.status}.`, response.status);
  }
}

/** The bytes at an address of the server. Throws refusals and cancels. */
export async function fetched(path, signal = null) {
  const response = await fetch(path, { signal }).catch((error) => {
    throw error.name === "AbortError" ? error : new Refusal(OFFLINE, 0);
  });
  if (!response.ok) throw new Refusal(`The server has no ${path.split("/").at(-1)} any more. Ask whoever started it.`, response.status);
  return response.arrayBuffer();
}

/** Adds to the warnings. */
export const warn = (text) => warned.add(text);

/** The warnings of the answers since the last call, each once. */
export function takeWarnings() {
  const all = [...warned];
  warned.clear();
  return all;
}

let staysHere = () => false;

/** From now on no form holds a file of which `stays` says that it stays on this device. */
export const keepHere = (stays) => (staysHere = stays);

/** A multipart form of names and values; a value is text or a Blob with a `.name`. Throws for a file that stays on this device. */
export function formOf(entries) {
  const form = new FormData(), kept = entries.find(([, value]) => staysHere(value));
  if (kept) throw new Refusal(`${kept[2]} stays on this device, and this needs the server. Use brush, eraser or polygon, or switch "On this device" off.`, 0);
  for (const [name, value, file] of entries) value instanceof Blob ? form.append(name, value, file) : form.append(name, value);
  return form;
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    });
  });
}
