// Pointers on the canvas: strokes with a mouse, pen or finger, panning, pinching, the wheel.

const CHANGE_OF_MIND_MS = 300; // a second finger within this time drops the stroke of the first
const WHEEL_STEP = 0.0018; // zoom per CSS pixel of the wheel

/**
 * Turn pointer events into calls.
 *
 * A mouse's first button, a pen or one finger draws. Two fingers pan and zoom, and so does one finger
 * once a pen was seen (a palm must not draw). The middle button, or the space key, pans.
 */
export class Gestures {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {object} actions start(point, {erase}), extend(points), end(), cancel(), hover(point or null),
   *   pan(dx, dy), zoom(factor, point), all in CSS pixels of the canvas
   */
  constructor(canvas, actions) {
    this.canvas = canvas;
    this.actions = actions;
    this.pointers = new Map(); // id -> point
    this.mode = null; // "draw", "pan" or "pinch"
    this.drawing = null; // id of the pointer that draws
    this.isPenUsed = false;
    this.isSpaceDown = false;
    const listen = (name, handle) => canvas.addEventListener(name, handle, { passive: false });
    listen("pointerdown", (event) => this.#down(event));
    listen("pointermove", (event) => this.#move(event));
    listen("pointerup", (event) => this.#up(event, false));
    listen("pointercancel", (event) => this.#up(event, event.pointerType === "touch"));
    listen("lostpointercapture", (event) => this.#up(event, false));
    listen("pointerleave", () => this.mode || this.actions.hover(null));
    listen("wheel", (event) => this.#wheel(event));
    listen("contextmenu", (event) => event.preventDefault());
    listen("touchstart", (event) => event.preventDefault()); // no selection, no double tap
  }

  /** Whether the space key is held: then a drag pans. */
  holdSpace(isDown) {
    this.isSpaceDown = isDown;
    this.canvas.classList.toggle("pans", isDown);
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #down(event) {
    if (event.button > 1) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    const isTouch = event.pointerType === "touch";
    if (event.pointerType === "pen") this.isPenUsed = true;
    if (isTouch && this.mode === "draw" && this.type === "pen") return; // the palm
    if (!isTouch && this.mode) return;
    this.pointers.set(event.pointerId, this.#point(event));
    this.canvas.setPointerCapture(event.pointerId);
    if (isTouch && this.pointers.size > 1) {
      this.#pinch();
    } else if (event.button === 1 || this.isSpaceDown || (isTouch && this.isPenUsed)) {
      this.mode = "pan";
    } else {
      this.#start(event);
    }
  }

  #start(event) {
    this.mode = "draw";
    this.drawing = event.pointerId;
    this.type = event.pointerType;
    this.since = event.timeStamp;
    const isEraser = event.pointerType === "pen" && (event.buttons & 32) !== 0;
    this.actions.start(this.#point(event), { erase: isEraser });
  }

  #pinch() {
    if (this.mode === "draw") {
      if (performance.now() - this.since < CHANGE_OF_MIND_MS) this.actions.cancel();
      else this.actions.end();
    }
    this.mode = "pinch";
    this.drawing = null;
    this.actions.hover(null);
  }

  #move(event) {
    const point = this.#point(event);
    if (!this.pointers.has(event.pointerId)) {
      if (event.pointerType !== "touch" && !this.mode) this.actions.hover(point);
      return;
    }
    const before = [...this.pointers.values()];
    const old = this.pointers.get(event.pointerId);
    this.pointers.set(event.pointerId, point);
    if (this.mode === "draw" && event.pointerId === this.drawing) {
      const events = event.getCoalescedEvents?.() ?? [];
      this.actions.extend((events.length ? events : [event]).map((one) => this.#point(one)));
    } else if (this.mode === "pan") {
      this.actions.pan(point[0] - old[0], point[1] - old[1]);
    } else if (this.mode === "pinch" && before.length > 1) {
      this.#spread(before, [...this.pointers.values()]);
    }
  }

  #spread(before, after) {
    const middle = ([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    const length = ([a, b]) => Math.max(Math.hypot(a[0] - b[0], a[1] - b[1]), 10);
    const [from, to] = [middle(before), middle(after)];
    this.actions.pan(to[0] - from[0], to[1] - from[1]);
    this.actions.zoom(length(after) / length(before), to);
  }

  #up(event, isCancelled) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.mode === "draw" && event.pointerId === this.drawing) {
      if (isCancelled) this.actions.cancel();
      else this.actions.end();
      this.drawing = null;
    }
    if (!this.pointers.size) this.mode = null;
    if (event.pointerType === "touch") this.actions.hover(null);
  }

  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    const speed = event.ctrlKey ? 6 : 1; // a pinch on a touch pad sends small steps
    const delta = Math.min(Math.max(event.deltaY * lines * speed, -400), 400);
    this.actions.zoom(Math.exp(-delta * WHEEL_STEP), this.#point(event));
  }
}
