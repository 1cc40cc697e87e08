// How far the server's work is: its phase, the number done, and the time left by what the phase has taken so far.

import { ask } from "./api.js";

const POLL = 400; // ms between two questions
const TOLD = 2; // steps before a time is said: the first is slow

export class Progress {
  /** `draw` is called after each change. */
  constructor(draw) {
    Object.assign(this, { draw, phase: "", done: 0, total: 0, began: 0 });
  }

  begin(phase, total) {
    Object.assign(this, { phase, total, done: 0, began: performance.now() });
    this.draw();
  }

  step(done = this.done + 1) {
    if (done === this.done) return;
    this.done = done;
    this.draw();
  }

  /** Seconds left in this phase; null while nobody can say. */
  get left() {
    if (this.done < TOLD || this.done >= this.total) return null;
    return ((performance.now() - this.began) / 1000 / this.done) * (this.total - this.done);
  }

  get text() {
    const count = this.total > 1 ? ` ${Math.min(this.done + 1, this.total)} of ${this.total}` : "", left = this.left;
    return `${this.phase}${count}${left === null ? "…" : `, ${inWords(left)} left`}`;
  }
}

export function inWords(seconds) {
  if (seconds < 90) return `about ${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `about ${Math.round(seconds / 60)} min` : `about ${Math.round(seconds / 3600)} h`;
}

/** The answer of `work`; meanwhile asks the server how far it is, and tells `progress`. */
export async function watched(progress, signal, work) {
  let over = false;
  const looking = (async () => {
    while (!over) {
      await new Promise((resolve) => setTimeout(resolve, POLL));
      const told = over ? null : await ask("/api/progress", { signal, retries: 0 }).catch(() => null); // the work itself says what is wrong
      if (over || !told?.total) continue;
      if (told.total !== progress.total || told.phase !== progress.told) {
        progress.told = told.phase;
        progress.begin(told.phase, told.total);
      }
      progress.step(told.done);
    }
  })();
  try {
    return await work();
  } finally {
    over = true;
    looking.catch(() => {});
  }
}
