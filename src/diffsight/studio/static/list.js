// The list of images: a listbox with small pictures, loaded as they come into sight.

import { byId, make } from "./dom.js";

const THUMBNAIL = 96; // pixels of the longest side
const TAIL = 12; // characters at the end of a name that are always shown
const OPEN_DELAY_MS = 160; // while an arrow key is held, images are not opened

/** Return the state of an image in a word, and in a text. */
export function stateOf({ strokes, accepted, has_prediction: isPredicted, error }) {
  if (error) return ["failed", "cannot be read"];
  if (accepted) return ["accepted", "accepted"];
  if (strokes) return ["painted", strokes === 1 ? "1 stroke" : `${strokes} strokes`];
  return isPredicted ? ["predicted", "predicted"] : ["none", "no labels"];
}

/** The list, its filters and its keys. */
export class ImageList {
  /** @param {function} onOpen called with the id of an image */
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.list = byId("list");
    this.rows = new Map(); // id -> row
    this.images = [];
    this.current = null;
    this.timer = 0;
    this.list.addEventListener("keydown", (event) => this.#key(event));
    byId("find").addEventListener("input", () => this.#filter());
    byId("only-open").addEventListener("change", () => this.#filter());
  }

  /** Show these images; rows stay, so that focus and position do. */
  render(images) {
    this.images = images;
    const ids = new Set(images.map(({ id }) => id));
    for (const [id, row] of this.rows) {
      if (!ids.has(id)) {
        row.remove();
        this.rows.delete(id);
      }
    }
    for (const image of images) this.#renderRow(image);
    const labelled = images.filter((image) => image.strokes || image.accepted).length;
    byId("images-count").textContent = `${labelled} of ${images.length} labelled`;
    this.#filter();
  }

  #renderRow(image) {
    const [state, text] = stateOf(image);
    let row = this.rows.get(image.id);
    if (!row) {
      const src = `/api/images/${image.id}/picture?side=${THUMBNAIL}`;
      row = make(
        "li",
        { role: "option", id: `image-${image.id}`, title: image.name, "aria-selected": "false" },
        make("img", { loading: "lazy", decoding: "async", alt: "", width: 56, height: 42, src }),
        // two parts, so that a long name keeps its end
        make(
          "span", { className: "name" },
          make("span", {}, image.name.slice(0, -TAIL)), make("span", {}, image.name.slice(-TAIL)),
        ),
        make("span", { className: "state" }),
      );
      row.addEventListener("click", () => this.onOpen(image.id));
      this.rows.set(image.id, row);
      this.list.append(row);
    }
    if (row.dataset.state === state && row.lastChild.textContent === text) return;
    row.dataset.state = state;
    row.lastChild.textContent = text;
  }

  #filter() {
    const words = byId("find").value.trim().toLowerCase();
    const onlyOpen = byId("only-open").checked;
    let count = 0;
    for (const image of this.images) {
      const isHidden =
        !image.name.toLowerCase().includes(words) ||
        (onlyOpen && Boolean(image.strokes || image.accepted) && image.id !== this.current);
      this.rows.get(image.id).hidden = isHidden;
      count += isHidden ? 0 : 1;
    }
    byId("list-empty").hidden = count > 0 || !this.images.length;
  }

  /** Mark the image that is open; one that the keys have chosen before is not opened any more. */
  select(id) {
    clearTimeout(this.timer);
    this.rows.get(this.current)?.setAttribute("aria-selected", "false");
    this.current = id;
    const row = this.rows.get(id);
    if (!row) return;
    row.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", row.id);
    row.scrollIntoView({ block: "nearest" });
  }

  /** Return the id of the image `steps` after the open one among those shown, or null at the end. */
  neighbour(steps) {
    const shown = this.images.filter(({ id }) => !this.rows.get(id).hidden);
    const position = shown.findIndex(({ id }) => id === this.current);
    const target = Math.min(Math.max(position + steps, 0), shown.length - 1);
    return target === position || !shown.length ? null : shown[target].id;
  }

  #key(event) {
    const steps = {
      ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity, PageUp: -8, PageDown: 8,
    }[event.key];
    if (steps === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    const id = this.neighbour(steps);
    if (id === null) return;
    this.select(id);
    this.timer = setTimeout(() => this.onOpen(id), OPEN_DELAY_MS);
  }
}
