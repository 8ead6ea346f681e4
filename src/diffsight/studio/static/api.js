// The server's interface: requests, pictures and events. Everything is of the same origin.

let project = ""; // id of the workspace that the page shows
const BROKEN_OFF = "The connection to the server broke off.";
const RETRY_MS = [300, 600, 1000, 2000, 3000]; // between two attempts to reach the server

/** An answer that is not a success. Status 0: the server cannot be reached. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** Whether the same request may succeed later. */
  get isPassing() {
    return [0, 401, 403, 408, 409, 429].includes(this.status) || this.status >= 500;
  }
}

/** Set the workspace that the page shows. A server of another one refuses requests (status 409). */
export function setProject(id) {
  project = id;
}

async function send(method, path, body, limit_ms) {
  const options = { method, cache: "no-store", headers: {} };
  if (limit_ms) options.signal = AbortSignal.timeout(limit_ms);
  if (project && path !== "/api/project") options.headers["X-Project"] = project;
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new ApiError(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  if (response.status === 409) location.reload(); // shows the workspace of the new server
  let message = `The server answered with status ${response.status}.`;
  try {
    message = (await response.json()).error ?? message;
  } catch {
    // no JSON: keep the status
  }
  throw new ApiError(response.status, message);
}

/** Return the JSON that a request is answered with. */
export async function request(method, path, body, limit_ms = 30_000) {
  const response = await send(method, path, body, limit_ms);
  try {
    return await response.json();
  } catch {
    throw new ApiError(0, BROKEN_OFF);
  }
}

/** Return a picture, or null where the server has none. */
export async function loadPicture(path) {
  let response;
  try {
    response = await send("GET", path);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
  let data;
  try {
    data = await response.blob();
  } catch {
    throw new ApiError(0, BROKEN_OFF);
  }
  try {
    return await createImageBitmap(data);
  } catch {
    throw new ApiError(415, "This browser cannot show the picture.");
  }
}

/**
 * The server's events. The connection is opened again whenever it breaks off.
 *
 * States: "online", "offline" (no server), "refused" (a new server that wants its own token).
 */
export class EventStream {
  /**
   * @param {Object<string, function>} handlers by the name of the event; they get its data
   * @param {function} onState called with the state and, when online, the project
   */
  constructor(handlers, onState) {
    this.handlers = handlers;
    this.onState = onState;
    this.state = "starting";
    this.attempt = 0;
    this.timer = 0;
    this.source = null;
  }

  /** Look whether the server is there, now; connect if so. */
  async check() {
    clearTimeout(this.timer);
    if (this.checking) return;
    this.checking = true;
    try {
      const project = await request("GET", "/api/project", undefined, 10_000);
      this.#open();
      this.#enter("online", project);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#close();
      this.#enter(error.status === 401 || error.status === 403 ? "refused" : "offline");
      this.#retry();
    } finally {
      this.checking = false;
    }
  }

  #retry() {
    const wait = RETRY_MS[Math.min(this.attempt++, RETRY_MS.length - 1)];
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.check(), wait);
  }

  #enter(state, project) {
    this.state = state;
    this.onState(state, project);
  }

  #open() {
    if (this.source) return;
    const source = new EventSource("/api/events");
    for (const [name, handle] of Object.entries(this.handlers)) {
      source.addEventListener(name, (event) => handle(JSON.parse(event.data || "{}")));
    }
    source.onopen = () => (this.attempt = 0);
    source.onerror = () => {
      if (source !== this.source) return;
      this.#close();
      this.#retry();
    };
    this.source = source;
  }

  #close() {
    this.source?.close();
    this.source = null;
  }
}
