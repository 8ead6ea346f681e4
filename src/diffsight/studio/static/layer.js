// The strokes of one image as a picture.

/** A canvas with the labels of the open image: what was accepted, and the strokes on top. */
export class LabelLayer {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d");
    this.scale = 1;
  }

  /** Take the size of an image, drawn at `scale` pixels per pixel of the original. */
  resize(width, height, scale) {
    this.scale = scale;
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
  }

  /**
   * Draw everything again.
   * @param {ImageBitmap|null} base labels that the server drew, below the strokes
   * @param {Array} strokes to draw, in their order
   * @param {function} colour of a stroke's value
   */
  redraw(base, strokes, colour) {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (base) {
      context.imageSmoothingEnabled = false;
      context.drawImage(base, 0, 0, canvas.width, canvas.height);
    }
    for (const stroke of strokes) this.draw(stroke, colour);
  }

  /** Draw a stroke from its point number `from` on. */
  draw(stroke, colour, from = 0) {
    const { context } = this;
    const points = stroke.points;
    if (!points.length) return;
    context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    context.globalCompositeOperation = stroke.tool === "erase" ? "destination-out" : "source-over";
    context.fillStyle = context.strokeStyle = stroke.tool === "erase" ? "#000" : colour(stroke.value);
    context.lineWidth = Math.max(2 * stroke.radius, 1 / this.scale);
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    const first = Math.max(0, from - 1);
    context.moveTo(...points[first]);
    // a line of no length draws a dot
    if (first === points.length - 1) context.lineTo(...points[first]);
    for (let i = first + 1; i < points.length; i++) context.lineTo(...points[i]);
    context.stroke();
  }
}
