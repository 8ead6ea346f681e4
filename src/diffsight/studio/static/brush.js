// Strokes while they are drawn, with a pointer or with the keys.

const MAX_POINTS = 4000; // of a stroke; a longer one becomes two
const STEP = 8; // CSS pixels that an arrow key moves the brush

/** Collects the points of a stroke and gives it away when it ends. */
export class Brush {
  /**
   * @param {View} view
   * @param {object} actions settings() -> {tool, value, radius} or null with a message shown;
   *   preview(stroke, from), finish(stroke), drop(), say(text)
   */
  constructor(view, actions) {
    this.view = view;
    this.actions = actions;
    this.stroke = null;
    this.cursor = null; // point of the image while the keys draw
  }

  get isDrawing() {
    return this.stroke !== null;
  }

  /** Start a stroke at a point of the image. */
  start(point, { erase = false } = {}) {
    if (this.stroke) this.end();
    const settings = this.view.image && this.actions.settings(erase);
    if (!settings) return false;
    this.stroke = { ...settings, points: [this.#inside(point)] };
    this.actions.preview(this.stroke, 0);
    return true;
  }

  /** Add points of the image; those that make no visible difference are left out. */
  extend(points) {
    if (!this.stroke) return;
    const gap = Math.max(0.7 / this.view.scale, 0.05 * this.stroke.radius, 0.1);
    const from = this.stroke.points.length;
    for (const point of points) {
      const [x, y] = this.#inside(point);
      const [lastX, lastY] = this.stroke.points.at(-1);
      if (Math.hypot(x - lastX, y - lastY) >= gap) this.stroke.points.push([x, y]);
    }
    if (this.stroke.points.length === from) return;
    this.actions.preview(this.stroke, from);
    if (this.stroke.points.length >= MAX_POINTS) this.#continueAnew();
  }

  #continueAnew() {
    const { points, ...settings } = this.stroke;
    this.actions.finish(this.stroke);
    this.stroke = { ...settings, points: [points.at(-1)] };
  }

  /** End the stroke and give it away. */
  end() {
    const stroke = this.stroke;
    this.stroke = null;
    if (stroke) this.actions.finish(stroke);
  }

  /** Drop the stroke. */
  cancel() {
    if (!this.stroke) return;
    this.stroke = null;
    this.actions.drop();
  }

  #inside([x, y]) {
    const { width, height } = this.view.image;
    const clip = (value, size) => Math.round(Math.min(Math.max(value, 0), size) * 10) / 10;
    return [clip(x, width), clip(y, height)];
  }

  /** Handle a key while the canvas has the focus; return whether it was one of the brush's. */
  key(event) {
    if (!this.view.image) return false;
    const direction = {
      ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
    }[event.key];
    if (direction) this.#moveCursor(direction, event.shiftKey);
    else if (event.key === "Enter") this.#toggle();
    else if (event.key === "Escape" && this.stroke) {
      this.cancel();
      this.actions.say("Stroke dropped.");
    } else return false;
    return true;
  }

  #moveCursor([dx, dy], isFine) {
    const step = isFine ? Math.max(1, 1 / this.view.scale) : STEP / this.view.scale;
    this.#showCursor();
    this.cursor = this.#inside([this.cursor[0] + dx * step, this.cursor[1] + dy * step]);
    if (this.stroke) this.extend([this.cursor]);
    this.view.reveal(this.cursor);
    this.actions.moved(this.cursor);
  }

  #showCursor() {
    if (this.cursor) return;
    const { clientWidth, clientHeight } = this.view.canvas;
    this.cursor = this.#inside(this.view.toImage([clientWidth / 2, clientHeight / 2]));
  }

  #toggle() {
    this.#showCursor();
    this.actions.moved(this.cursor);
    const at = this.cursor.map(Math.round).join(", ");
    if (this.stroke) {
      this.end();
      this.actions.say(`Stroke ended at ${at}.`);
    } else if (this.start(this.cursor)) {
      this.actions.say(`Stroke started at ${at}.`);
    }
  }
}
