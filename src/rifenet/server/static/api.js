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

/** The warnings of the answers since the last call, each once. */
export function takeWarnings() {
  const all = [...warned];
  warned.clear();
  return all;
}

/** A multipart form of names and values; a value is text or a Blob with a `.name`. */
export function formOf(entries) {
  const form = new FormData();
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
