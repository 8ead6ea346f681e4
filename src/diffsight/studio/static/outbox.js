// Strokes that the server has not acknowledged. Each is an entry of localStorage, so that neither a
// lost connection nor a closed page loses one. A stroke keeps its id; sending it twice changes nothing.

const PREFIX = "diffsight:stroke:";
const RETRY_MS = 3000;

/** Strokes on their way to the server, oldest first. */
export class Outbox {
  /**
   * @param {string} project id of the workspace: strokes of another workspace are left alone
   * @param {object} actions send(image, stroke) -> promise; onChange(count); onRefused(entry, error);
   *   onFailed(error): it is tried again; onFull(): the browser keeps no more
   */
  constructor(project, actions) {
    this.project = project;
    this.actions = actions;
    this.entries = new Map(); // key -> {image, name, stroke}
    this.running = null;
    this.last = 0;
    this.timer = 0;
    this.read();
  }

  get prefix() {
    return `${PREFIX}${this.project}:`;
  }

  /** Number of strokes that are not acknowledged. */
  get count() {
    return this.entries.size;
  }

  /** Take over what this or another page has left behind. */
  read() {
    try {
      const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix));
      for (const key of keys.sort()) {
        if (!this.entries.has(key)) this.#readEntry(key);
      }
    } catch {
      // storage is switched off: strokes are kept in memory
    }
  }

  #readEntry(key) {
    try {
      const entry = JSON.parse(localStorage.getItem(key));
      if (entry?.stroke?.id && entry.image !== undefined) this.entries.set(key, entry);
    } catch {
      localStorage.removeItem(key);
    }
  }

  /** Keep a stroke and send it. */
  add(image, name, stroke) {
    this.last = Math.max(Date.now(), this.last + 1); // in order, also within a millisecond
    const key = `${this.prefix}${String(this.last).padStart(15, "0")}:${stroke.id}`;
    const entry = { image, name, stroke };
    this.entries.set(key, entry);
    try {
      localStorage.setItem(key, JSON.stringify(entry));
    } catch {
      this.actions.onFull();
    }
    this.actions.onChange(this.count);
    return this.flush();
  }

  /** Return the strokes of an image that are not acknowledged. */
  pending(image) {
    return [...this.entries.values()].filter((e) => e.image === image).map((e) => e.stroke);
  }

  /** Send everything in order. Resolves to whether all of it is acknowledged. */
  flush() {
    this.running ??= this.#sendAll().finally(() => (this.running = null));
    return this.running;
  }

  async #sendAll() {
    while (this.entries.size) {
      const [key, entry] = this.entries.entries().next().value;
      try {
        await this.actions.send(entry.image, entry.stroke);
      } catch (error) {
        if (error.isPassing) {
          clearTimeout(this.timer);
          this.timer = setTimeout(() => this.flush(), RETRY_MS);
          this.actions.onFailed(error);
          return false;
        }
        this.#remove(key);
        this.actions.onRefused(entry, error);
        continue;
      }
      this.#remove(key);
    }
    return true;
  }

  #remove(key) {
    this.entries.delete(key);
    try {
      localStorage.removeItem(key);
    } catch {
      // storage is switched off
    }
    this.actions.onChange(this.count);
  }
}
