// The brush's settings, the switches of the layers, and the texts about the open image.

import { byId, grouped } from "./dom.js";

const RADIUS_STEP = 1.25; // of the keys

/** Settings of the brush and of what is shown. */
export class Panel {
  /**
   * @param {object} show {labels, prediction, uncertainty, opacity}: changed here
   * @param {object} actions onShow(name), onRadius()
   */
  constructor(show, actions) {
    this.show = show;
    this.actions = actions;
    this.radius = 0; // pixels of the original
    this.side = 1; // longest side of the open image
    byId("radius").addEventListener("input", () => {
      this.setRadius(this.#largest ** (byId("radius").value / 100));
    });
    for (const name of ["labels", "prediction", "uncertainty"]) {
      byId(`show-${name}`).addEventListener("change", (event) => {
        show[name] = event.target.checked;
        actions.onShow(name);
      });
    }
    byId("opacity").addEventListener("input", (event) => this.setOpacity(event.target.value / 100));
    this.setOpacity(show.opacity);
  }

  get #largest() {
    return Math.max(this.side / 6, 4);
  }

  get tool() {
    return document.querySelector("input[name=tool]:checked").value;
  }

  setTool(name) {
    document.querySelector(`input[name=tool][value=${name}]`).checked = true;
    this.actions.onRadius();
  }

  /** Take another image; the brush keeps its size in relation to the image. */
  setImage({ width, height }) {
    const side = Math.max(width ?? 0, height ?? 0);
    if (!side) return;
    const radius = this.radius ? (this.radius * side) / this.side : side / 50;
    this.side = side;
    this.setRadius(radius);
  }

  /** Set the brush's radius in pixels of the original. */
  setRadius(radius) {
    this.radius = Math.min(Math.max(radius, 1), this.#largest);
    if (this.radius > 3) this.radius = Math.round(this.radius);
    byId("radius").value = (100 * Math.log(this.radius)) / Math.log(this.#largest);
    const text = `${Number(this.radius.toFixed(1))} px`;
    byId("radius-text").textContent = text;
    byId("radius").setAttribute("aria-valuetext", text);
    this.actions.onRadius();
  }

  /** Make the brush larger (1) or smaller (-1). */
  stepRadius(direction) {
    const next = this.radius * RADIUS_STEP ** direction;
    this.setRadius(direction > 0 ? Math.max(next, this.radius + 1) : Math.min(next, this.radius - 1));
  }

  setOpacity(value) {
    this.show.opacity = value;
    byId("opacity").value = 100 * value;
    const text = `${Math.round(100 * value)} %`;
    byId("opacity-text").textContent = text;
    byId("opacity").setAttribute("aria-valuetext", text);
    this.actions.onShow("opacity");
  }

  /** Switch a layer. */
  toggle(name) {
    byId(`show-${name}`).click();
  }
}

/** Show texts and buttons for the session's image. */
export function renderSession(session) {
  const { image } = session;
  byId("image-name").textContent = image?.name ?? "";
  const hasSize = image?.width && image?.height;
  byId("image-size").textContent = hasSize ? `${grouped(image.width)} × ${grouped(image.height)}` : "";
  byId("canvas").setAttribute("aria-label", image ? `Image ${image.name}` : "No image");
  byId("undo").disabled = !session.canUndo;
  byId("redo").disabled = !session.canRedo;
  const note = byId("stage-note");
  const isLoading = image && !session.pictures.picture && !session.failure;
  note.textContent = session.failure || (isLoading ? "Loading the picture" : "");
  note.hidden = !note.textContent;
  const accept = byId("accept");
  accept.firstChild.textContent = image?.accepted ? "Take back " : "Accept ";
  accept.setAttribute("aria-pressed", String(Boolean(image?.accepted)));
  accept.disabled = !image || !(image.accepted || session.pictures.prediction);
  byId("prediction-note").textContent = predictionText(session);
  byId("canvas").dataset.seconds = session.seconds ?? "";
}

/** Return what the server says that the user can do, as a sentence; nothing while it works. */
function advice() {
  const { dataset, textContent: text } = byId("learner");
  if (dataset.busy === "true" || !text || text === "ready") return "";
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

function predictionText({ pictures, pending, seconds, image }) {
  if (!image) return "";
  if (!pictures.prediction) return `There is no prediction of this image yet. ${advice()}`;
  if (pending) return "The prediction is being updated.";
  if (seconds !== null) return `The prediction followed your last change after ${seconds.toFixed(1)} s.`;
  return "The prediction is up to date.";
}
