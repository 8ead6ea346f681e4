// What the canvas shows: the picture, the prediction over it, the labels over that, and the brush.

const MAX_ZOOM = 40; // CSS pixels per pixel of the original
const RIM = 2.5; // CSS pixels of the light rim that separates labels from the prediction
const FIT_MARGIN = 12; // CSS pixels around an image that fits

/** The canvas, and where the open image lies on it. Coordinates of images are pixels of the original. */
export class View {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {function} onZoom called with the zoom, in CSS pixels per pixel
   */
  constructor(canvas, onZoom) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.onZoom = onZoom;
    this.image = null; // {width, height}
    this.layers = []; // {source, opacity, isSmooth, hasRim}, lowest first
    this.brush = null; // {x, y, radius, isErasing, isCursor}
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.isFitted = true;
    this.frame = 0;
    new ResizeObserver(() => this.#resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  /** Show another image; `keep` keeps zoom and position, for the same image. */
  open(image, keep = false) {
    this.image = image;
    if (!keep) this.fit();
    this.redraw();
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = devicePixelRatio;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    if (this.isFitted) this.fit();
    this.#paint(); // now: a canvas is empty after it got a size
  }

  /** Return the scale at which the whole image is seen. */
  get fittingScale() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const free = [width - 2 * FIT_MARGIN, height - 2 * FIT_MARGIN];
    return Math.max(1e-3, Math.min(free[0] / this.image.width, free[1] / this.image.height));
  }

  /** Show the whole image. */
  fit() {
    if (!this.image) return;
    this.scale = this.fittingScale;
    this.x = (this.canvas.clientWidth - this.image.width * this.scale) / 2;
    this.y = (this.canvas.clientHeight - this.image.height * this.scale) / 2;
    this.isFitted = true;
    this.redraw();
    this.onZoom(this.scale);
  }

  /** Zoom by a factor; the image point below a point of the canvas stays there. */
  zoom(factor, at = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2]) {
    if (!this.image) return;
    const low = Math.min(this.fittingScale / 2, 1);
    const scale = Math.min(Math.max(this.scale * factor, low), MAX_ZOOM);
    const real = scale / this.scale;
    this.x = at[0] - (at[0] - this.x) * real;
    this.y = at[1] - (at[1] - this.y) * real;
    this.scale = scale;
    this.isFitted = false;
    this.#keepInSight();
    this.onZoom(scale);
  }

  /** Move the image by CSS pixels. */
  pan(dx, dy) {
    if (!this.image) return;
    this.x += dx;
    this.y += dy;
    this.isFitted = false;
    this.#keepInSight();
  }

  #keepInSight() {
    const rest = 40; // CSS pixels of the image that stay visible
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.x = Math.min(Math.max(this.x, rest - this.image.width * this.scale), width - rest);
    this.y = Math.min(Math.max(this.y, rest - this.image.height * this.scale), height - rest);
    this.redraw();
  }

  /** Move the image so far that a point of it is well inside the canvas. */
  reveal([x, y], margin = 32) {
    const [left, top] = this.toCanvas([x, y]);
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const dx = Math.min(Math.max(left, margin), width - margin) - left;
    const dy = Math.min(Math.max(top, margin), height - margin) - top;
    if (dx || dy) this.pan(dx, dy);
  }

  /** Return the point of the image at a point of the canvas. */
  toImage([x, y]) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  /** Return the point of the canvas at a point of the image. */
  toCanvas([x, y]) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }

  /** Draw in the next frame. */
  redraw() {
    this.frame ||= requestAnimationFrame(() => this.#paint());
  }

  #paint() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const { context, canvas } = this;
    const ratio = devicePixelRatio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    const width = this.image.width * this.scale;
    const height = this.image.height * this.scale;
    for (const { source, opacity, isSmooth, hasRim } of this.layers) {
      if (!source || !opacity) continue;
      context.globalAlpha = opacity;
      context.imageSmoothingEnabled = isSmooth && this.scale < 8;
      context.imageSmoothingQuality = "high";
      context.shadowColor = hasRim ? "#fff" : "transparent";
      context.shadowBlur = hasRim ? RIM * ratio : 0;
      context.drawImage(source, this.x, this.y, width, height);
    }
    context.shadowColor = "transparent";
    context.globalAlpha = 1;
    if (this.brush) this.#paintBrush();
  }

  #paintBrush() {
    const { context, brush } = this;
    const [x, y] = this.toCanvas([brush.x, brush.y]);
    const radius = Math.max(brush.radius * this.scale, 1.5);
    const rings = [["#000", 3], ["#fff", 1.5]];
    for (const [colour, width] of rings) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.setLineDash(brush.isErasing ? [5, 4] : []);
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.stroke();
      context.setLineDash([]);
      if (!brush.isCursor) continue;
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + dx * 3, y + dy * 3);
        context.lineTo(x + dx * (radius + 7), y + dy * (radius + 7));
      }
      context.stroke();
    }
  }
}
