// The open image: its picture, strokes, labels and prediction, and what is done to them.

import { ApiError, loadPicture, request } from "./api.js";
import { strokeColours } from "./colours.js";
import { announce, latest } from "./dom.js";
import { LabelLayer } from "./layer.js";

const SIDE = 1600; // longest side of pictures, in pixels

/** One image at a time. Answers that arrive after another image was opened are dropped. */
export class Session {
  /**
   * @param {object} app shared state: project, view, outbox, tab, show
   * @param {function} onChange called after strokes, labels or predictions have changed
   */
  constructor(app, onChange) {
    this.app = app;
    this.onChange = onChange;
    this.image = null; // entry of the project
    this.strokes = [];
    this.base = null; // where something was accepted: the labels as a bitmap
    this.baseVersion = 0; // strokes with a higher number are not in it
    this.pictures = { picture: null, prediction: null, uncertainty: null };
    this.failure = "";
    this.pending = null; // {since, sent}: times of the last change that no prediction has seen
    this.seconds = null; // from the last change to its prediction
    this.labels = new LabelLayer();
    this.drawn = null; // stroke that is being drawn
    this.refreshStrokes = latest(() => this.#loadStrokes());
    this.refreshPredictions = latest(() => this.#loadPredictions());
    this.order = Promise.resolve(); // undo and redo, one after another
  }

  /** Return a path of the image that is open now; after an `await` it may be another one. */
  #path(what) {
    return `/api/images/${this.image.id}/${what}`;
  }

  /** Open an image of the project. */
  async open(image) {
    this.image = image;
    this.strokes = [];
    this.base = this.failure = this.pending = this.seconds = null;
    this.pictures = { picture: null, prediction: null, uncertainty: null };
    this.#showPicture(false);
    this.onChange();
    await this.reload();
  }

  /** Load everything of the open image; after a lost connection, again. */
  async reload() {
    const image = this.image;
    if (!image) return;
    request("POST", this.#path("open"), {}).catch(() => {});
    const parts = [this.#loadImage(), this.refreshStrokes(), this.refreshPredictions()];
    const results = await Promise.allSettled(parts);
    if (image !== this.image) return;
    const failed = results.find((r) => r.status === "rejected" && r.reason.status !== 0);
    this.failure = failed ? failed.reason.message : "";
    if (failed && !(failed.reason instanceof ApiError)) throw failed.reason;
    this.onChange();
  }

  async #loadImage() {
    if (this.pictures.picture) return;
    const image = this.image;
    if (image.error) throw new ApiError(400, image.error);
    const picture = await loadPicture(this.#path(`picture?side=${SIDE}`));
    if (image !== this.image || !picture) return;
    this.pictures.picture = picture;
    if (!image.width) await this.app.refreshProject(); // sizes are read when an image is opened
    if (image !== this.image) return;
    this.#showPicture(false);
  }

  #showPicture(keep) {
    const { picture } = this.pictures;
    const { width, height } = this.image;
    if (width) this.labels.resize(width, height, Math.min(1, SIDE / Math.max(width, height)));
    this.app.view.open(picture && width ? { width, height } : null, keep);
    this.redrawLabels();
  }

  /** Take a new entry of the project for the open image. */
  setEntry(entry) {
    const old = this.image;
    this.image = Object.assign(old, entry);
    if (!entry.accepted) this.base = null;
  }

  async #loadStrokes() {
    const image = this.image;
    const labels = this.#path(`labels.png?side=${SIDE}`);
    const { strokes, version } = await request("GET", this.#path("strokes"));
    const base = image.accepted ? await loadPicture(labels) : null;
    if (image !== this.image) return;
    const ids = new Set(strokes.map(({ id }) => id));
    const waiting = new Set(this.app.outbox.pending(image.id).map(({ id }) => id));
    const isNewer = ({ id, number }) => !ids.has(id) && (waiting.has(id) || number > version);
    const local = this.strokes.filter(isNewer);
    const kept = this.app.outbox.pending(image.id).filter((one) => isNewer(one));
    this.strokes = [...strokes, ...local, ...kept.filter(({ id }) => !local.some((s) => s.id === id))];
    this.base = base;
    this.baseVersion = version;
    this.redrawLabels();
    this.onChange();
  }

  async #loadPredictions() {
    const image = this.image;
    if (!image.has_prediction) this.pictures.prediction = this.pictures.uncertainty = null;
    for (const layer of ["prediction", "uncertainty"]) {
      if (!image.has_prediction || (layer === "uncertainty" && !this.app.show.uncertainty)) continue;
      const picture = await loadPicture(this.#path(`prediction.png?side=${SIDE}&layer=${layer}`));
      if (image !== this.image) return;
      this.pictures[layer] = picture;
    }
    this.arrange();
    this.onChange();
  }

  /** Show a prediction that was just made, `seconds` after the learner has read the labels. */
  async takePrediction(seconds) {
    const { pending, image } = this;
    image.has_prediction = true;
    // read after the last change was sent
    const isNew = pending?.sent && 1000 * seconds <= performance.now() - pending.sent;
    await this.refreshPredictions();
    if (!isNew || image !== this.image || pending !== this.pending) return;
    this.seconds = (performance.now() - pending.since) / 1000;
    this.pending = null;
    this.onChange();
  }

  /** Note that the learner has nothing to do: no further prediction will come. */
  settle() {
    if (!this.pending?.sent) return;
    this.pending = null;
    this.onChange();
  }

  /** Draw all labels of the image again. */
  redrawLabels() {
    this.colour = strokeColours(this.app.project, this.strokes);
    const isInBase = ({ number }) => this.base && number <= this.baseVersion;
    const strokes = this.strokes.filter((stroke) => !stroke.undone && !isInBase(stroke));
    this.labels.redraw(this.base, strokes, this.colour);
    if (this.drawn) this.labels.draw(this.drawn, this.colour);
    this.arrange();
  }

  /** Give the view its layers, as the switches say. */
  arrange() {
    const { show, view } = this.app;
    const { picture, prediction, uncertainty } = this.pictures;
    view.layers = [
      { source: picture, opacity: 1, isSmooth: true },
      { source: prediction, opacity: show.prediction ? show.opacity : 0, isSmooth: true },
      { source: uncertainty, opacity: show.uncertainty ? show.opacity : 0, isSmooth: true },
      { source: this.labels.canvas, opacity: show.labels ? 0.9 : 0, hasRim: true },
    ];
    view.redraw();
  }

  /** Draw the stroke in progress, from its point number `from` on. */
  preview(stroke, from) {
    this.drawn = stroke;
    this.labels.draw(stroke, this.colour, from);
    this.app.view.redraw();
  }

  /** Drop the stroke in progress. */
  drop() {
    this.drawn = null;
    this.redrawLabels();
  }

  /** Keep and send a stroke that was drawn. */
  finish({ tool, value, radius, points }) {
    this.drawn = null;
    const id = crypto.randomUUID();
    const stroke = { id, tab: this.app.tab, tool, value, radius, points };
    this.strokes.push({ ...stroke });
    if (this.app.project.kind === "scalar" && !this.app.project.range) this.redrawLabels();
    this.seconds = null;
    this.pending = { since: performance.now(), sent: 0 };
    this.app.outbox.add(this.image.id, this.image.name, stroke);
    this.onChange();
  }

  /** Post a stroke; called by the outbox. */
  async send(imageId, stroke) {
    const sent = performance.now();
    const { number } = await request("POST", `/api/images/${imageId}/strokes`, stroke);
    if (this.image?.id !== imageId) return;
    const local = this.strokes.find(({ id }) => id === stroke.id);
    if (local) local.number = number;
    this.#changed(sent, this.pending?.since);
  }

  /** Note that a change was saved: when its request was sent, and when the user made it. */
  #changed(sent, since = sent) {
    this.seconds = null;
    this.pending = { since, sent };
    this.onChange();
  }

  get #own() {
    return this.strokes.filter(({ tab }) => tab === this.app.tab);
  }

  get canUndo() {
    return this.#own.some(({ undone }) => !undone);
  }

  /** Whether the last stroke of this tab was undone; a new stroke ends that. */
  get canRedo() {
    return Boolean(this.#own.at(-1)?.undone);
  }

  /** Undo the last stroke of this tab on this image. */
  undo() {
    const stroke = this.#own.findLast(({ undone }) => !undone);
    if (!stroke) return announce("Nothing in this image was painted in this tab.");
    stroke.undone = true; // shown at once
    this.redrawLabels();
    this.onChange();
    const { image } = this; // when its turn comes, another one may be open
    this.order = this.order.then(() => this.#change(image, "undo", "Stroke undone.", stroke));
  }

  /** Redo the stroke that was undone last. */
  redo() {
    if (!this.canRedo) return announce("Nothing to redo.");
    const { image } = this;
    this.order = this.order.then(() => this.#change(image, "redo", "Stroke redone."));
  }

  async #change(image, what, message, shown) {
    try {
      if (!(await this.app.outbox.flush())) throw new ApiError(0, "The server cannot be reached.");
      const path = `/api/images/${image.id}/${what}`;
      const sent = performance.now();
      const { stroke } = await request("POST", path, { tab: this.app.tab });
      announce(stroke ? message : `Nothing to ${what}.`);
      if (image === this.image) {
        if (stroke) this.#changed(sent);
        await this.refreshStrokes();
      }
    } catch (error) {
      announce(error.status === 0 ? `Not ${what === "undo" ? "undone" : "redone"}: the server cannot be reached.` : error.message, true);
      if (shown) shown.undone = false;
      this.redrawLabels();
      this.onChange();
      await this.refreshStrokes().catch(() => {}); // after a lost connection it is loaded again
    }
  }

  /** Take the prediction as a label where nothing is painted, or take that back. */
  async accept() {
    const image = this.image;
    const path = this.#path("accept");
    const isAccepted = Boolean(image.accepted);
    if (!isAccepted && !this.pictures.prediction) {
      return announce("There is no prediction of this image yet.", true);
    }
    try {
      if (!(await this.app.outbox.flush())) throw new ApiError(0, "The server cannot be reached.");
      const sent = performance.now();
      await request(isAccepted ? "DELETE" : "POST", path, {});
      image.accepted = !isAccepted;
      announce(isAccepted ? "Accepted labels taken back." : "Prediction accepted as a label.");
      if (image !== this.image) return;
      this.#changed(sent);
      await this.refreshStrokes();
    } catch (error) {
      announce(error.message, true);
    }
    this.onChange();
  }
}
