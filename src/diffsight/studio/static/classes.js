// The panels that say what is painted: a class, or a number.

import { request } from "./api.js";
import { strokeColours } from "./colours.js";
import { announce, byId, make, short } from "./dom.js";

const RECENT = 9; // numbers that have a key

/** Classes and numbers, and the choice between the two. */
export class Palette {
  /** @param {object} app shared state: project, session, refreshProject */
  constructor(app) {
    this.app = app;
    this.classId = null;
    this.editing = null; // id of the class whose name is being changed
    byId("add-class").addEventListener("submit", (event) => this.#add(event));
    byId("number").addEventListener("input", () => this.renderNumbers());
    for (const input of document.querySelectorAll("input[name=kind]")) {
      input.addEventListener("change", () => this.#setKind());
    }
    byId("unit").addEventListener("change", () => this.#setKind());
  }

  get isScalar() {
    return this.app.project.kind === "scalar";
  }

  /** Return the value to paint with, or null after a message that none is chosen. */
  value() {
    if (this.isScalar) {
      const number = byId("number").valueAsNumber;
      if (Number.isFinite(number)) return number;
      announce("Enter the number to paint first.", true);
      byId("number").focus();
      return null;
    }
    if (this.app.project.classes.some(({ id }) => id === this.classId)) return this.classId;
    announce("Add a class first, then paint.", true);
    byId("class-name").focus();
    return null;
  }

  /** Choose class or number `index`, counted from 0 as the keys are. */
  choose(index) {
    if (this.isScalar) {
      const number = this.#recent()[index];
      if (number === undefined) return;
      byId("number").value = number;
      this.renderNumbers();
      announce(`Number ${number}`);
      return;
    }
    const one = this.app.project.classes[index];
    if (!one) return;
    this.classId = one.id;
    this.render();
    announce(`Class ${one.name}`);
  }

  /** Show the project's kind, classes and numbers. */
  render() {
    const { project } = this.app;
    const isNew = !project.images.some(({ strokes, accepted }) => strokes || accepted);
    byId("kind").hidden = !isNew;
    byId("classes").hidden = this.isScalar;
    byId("numbers").hidden = !this.isScalar;
    byId("unit-row").hidden = !this.isScalar;
    for (const input of document.querySelectorAll("input[name=kind]")) {
      input.checked = input.value === project.kind;
    }
    if (document.activeElement !== byId("unit")) byId("unit").value = project.unit ?? "";
    if (this.isScalar) this.renderNumbers();
    else this.#renderClasses();
  }

  #renderClasses() {
    const { classes } = this.app.project;
    this.classId ??= classes[0]?.id ?? null;
    byId("classes-hint").hidden = classes.length > 1;
    const list = byId("class-list");
    if (list.contains(document.activeElement) && this.editing !== null) return; // being typed in
    const focused = document.activeElement?.closest("#class-list [data-class]");
    const back = focused && [focused.dataset.class, document.activeElement.tagName];
    list.replaceChildren(...classes.map((one, index) => this.#row(one, index)));
    if (back) list.querySelector(`[data-class="${back[0]}"] ${back[1]}`)?.focus();
  }

  #row(one, index) {
    const item = make("li", { "data-class": one.id });
    if (this.editing === one.id) {
      item.append(this.#editor(one));
      return item;
    }
    const radio = make("input", {
      type: "radio", name: "class", checked: one.id === this.classId,
    });
    radio.addEventListener("change", () => (this.classId = one.id));
    const swatch = make("i", { className: "swatch", "aria-hidden": "true" });
    swatch.style.background = one.colour;
    const edit = make(
      "button", { className: "quiet", "aria-label": `Change ${one.name}`, title: "Name and colour" },
      "Edit",
    );
    edit.addEventListener("click", () => this.#edit(one.id));
    const label = make("label", {}, radio, swatch, make("span", {}, one.name));
    if (index < 9) label.append(make("kbd", {}, String(index + 1)));
    item.append(label, edit);
    return item;
  }

  #editor(one) {
    const name = make("input", {
      type: "text", value: one.name, maxLength: 60, "aria-label": `New name of ${one.name}`,
    });
    const colour = make("input", {
      type: "color", value: one.colour, "aria-label": `Colour of ${one.name}`,
    });
    const form = make("form", { className: "row" }, colour, name, make("button", {}, "Save"));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!name.value.trim()) return name.focus();
      const changes = { name: name.value.trim(), colour: colour.value };
      await this.#send("PATCH", `/api/classes/${one.id}`, changes);
      this.#edit(null, one.id);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.#edit(null, one.id);
    });
    return form;
  }

  #edit(id, back = null) {
    document.activeElement?.blur();
    this.editing = id;
    this.#renderClasses();
    const row = byId("class-list").querySelector(`[data-class="${id ?? back}"]`);
    (id === null ? row?.querySelector("button") : row?.querySelector("input[type=text]"))?.focus();
    if (id !== null) row?.querySelector("input[type=text]").select();
  }

  async #add(event) {
    event.preventDefault();
    const input = byId("class-name");
    const name = input.value.trim();
    if (!name) return input.focus();
    const added = await this.#send("POST", "/api/classes", { name });
    if (!added) return;
    if (input.value.trim() === name) input.value = "";
    announce(`Class ${added.name} added.`);
  }

  async #setKind() {
    const kind = document.querySelector("input[name=kind]:checked").value;
    const unit = byId("unit").value.trim();
    const body = kind === "scalar" && unit ? { kind, unit } : { kind };
    await this.#send("PUT", "/api/kind", body);
    this.render(); // where it was refused
  }

  async #send(method, path, body) {
    try {
      const result = await request(method, path, body);
      if (method === "POST") this.classId = result.id; // the new class; a key pressed later wins
      await this.app.refreshProject();
      return result;
    } catch (error) {
      announce(error.message, true);
      return null;
    }
  }

  #recent() {
    const values = this.app.session.strokes.filter((s) => s.tool === "paint").map((s) => s.value);
    return [...new Set(values.reverse())].slice(0, RECENT).sort((a, b) => a - b);
  }

  /** Show the number's colour, and the numbers painted in this image. */
  renderNumbers() {
    if (!this.isScalar) return;
    const { project, session } = this.app;
    byId("number-unit").textContent = project.unit ?? "";
    const colour = strokeColours(project, session.strokes);
    byId("number-colour").style.background = colour(byId("number").valueAsNumber || 0);
    const buttons = this.#recent().map((value, index) => {
      const swatch = make("i", { className: "swatch", "aria-hidden": "true" });
      swatch.style.background = colour(value);
      const button = make("button", {}, swatch, short(value), make("kbd", {}, String(index + 1)));
      button.addEventListener("click", () => this.choose(index));
      return make("li", {}, button);
    });
    byId("recent").replaceChildren(...buttons);
  }
}
