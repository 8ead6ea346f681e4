// The page: puts the parts together.

import { EventStream, request, setProject } from "./api.js";
import { Brush } from "./brush.js";
import { Palette } from "./classes.js";
import { announce, byId, latest, make } from "./dom.js";
import { Gestures } from "./gestures.js";
import { listenToKeys } from "./keys.js";
import { ImageList } from "./list.js";
import { Outbox } from "./outbox.js";
import { Panel, renderSession } from "./panel.js";
import { renderScores } from "./score.js";
import { Session } from "./session.js";
import { View } from "./view.js";

const PROJECT_PAUSE_MS = 300; // between two readings of the project
const FULL = "This browser cannot keep strokes: leave the page open until they are saved.";
const OFFLINE = "The server cannot be reached. You can go on painting: the page connects by itself.";
const REFUSED = "The server was started again and does not accept this page. Open the address that it prints.";

/** Return the name of this tab; it stays when the page is loaded again. */
function tabName() {
  let name = sessionStorage.getItem("diffsight:tab");
  if (!name) sessionStorage.setItem("diffsight:tab", (name = crypto.randomUUID()));
  return name;
}

const app = {
  project: null,
  outbox: null,
  tab: tabName(),
  forecast: null,
  show: { labels: true, prediction: true, uncertainty: false, opacity: 0.5 },
};
app.refreshProject = latest(
  async () => applyProject(await request("GET", "/api/project")), PROJECT_PAUSE_MS,
);
app.view = new View(byId("canvas"), (scale) => {
  byId("zoom").textContent = `${scale < 0.1 ? (100 * scale).toFixed(1) : Math.round(100 * scale)} %`;
});
app.session = new Session(app, () => {
  renderSession(app.session);
  if (app.project) palette.renderNumbers();
});
const panel = new Panel(app.show, {
  onShow: (name) => {
    if (!app.session.image) return;
    if (name === "uncertainty" && app.show.uncertainty) app.session.refreshPredictions().catch(fail);
    app.session.arrange();
  },
  onRadius: () => showBrush(lastPoint),
});
const palette = new Palette(app);
const list = new ImageList(openImage);

// ---- the project ----

function fail(error) {
  if (error.status === 0) stream.check();
  else announce(error.message, true);
}

function applyProject(project) {
  const isFirst = app.project === null;
  if (!isFirst && project.id !== app.project.id) return location.reload(); // another server
  if (project.problem && project.problem !== app.project?.problem) announce(project.problem, true);
  app.project = project;
  setProject(project.id);
  const name = project.folder.split(/[\\/]/).filter(Boolean).at(-1) ?? project.folder;
  byId("folder").textContent = name;
  byId("folder").title = project.folder;
  document.title = `${name} · diffsight studio`;
  if (isFirst) makeOutbox(project.id);
  list.render(project.images);
  palette.render();
  renderScores(project.scores, app.forecast);
  const { session } = app;
  const entry = session.image && project.images.find(({ id }) => id === session.image.id);
  if (entry) {
    const { accepted: wasAccepted, has_prediction: wasPredicted } = session.image;
    session.setEntry(entry);
    if (wasPredicted !== entry.has_prediction) session.refreshPredictions().catch(fail);
    if (wasAccepted !== entry.accepted) session.refreshStrokes().catch(fail);
    else session.redrawLabels(); // colours of classes
    renderSession(session);
  }
  if (isFirst) openFirst(project);
}

function makeOutbox(id) {
  app.outbox = new Outbox(id, {
    send: (image, stroke) => app.session.send(image, stroke),
    onChange: () => showConnection(),
    onRefused: (entry, error) => {
      announce(`A stroke on ${entry.name} was not saved: ${error.message}`, true);
      if (app.session.image?.id === entry.image) app.session.refreshStrokes().catch(fail);
    },
    onFailed: (error) => {
      if (error.status === 0) stream.check();
      else announce(`Not saved yet, it is tried again: ${error.message}`, true);
    },
    onFull: () => announce(FULL, true),
  });
}

function openFirst(project) {
  const last = sessionStorage.getItem(`diffsight:image:${project.id}`);
  const image = project.images.find(({ id }) => String(id) === last) ?? project.images[0];
  if (image) openImage(image.id);
  else announce("The folder has no images.", true);
}

function openImage(id) {
  const image = app.project.images.find((one) => one.id === id);
  if (!image || id === app.session.image?.id) return;
  brush.end();
  brush.cursor = null;
  app.view.brush = null;
  sessionStorage.setItem(`diffsight:image:${app.project.id}`, String(id));
  list.select(id);
  panel.setImage(image);
  app.session.open({ ...image }).then(() => panel.setImage(app.session.image)).catch(fail);
}

function openNeighbour(steps) {
  const id = list.neighbour(steps);
  if (id === null) announce(steps > 0 ? "This is the last image." : "This is the first image.");
  else openImage(id);
}

async function openSuggestion() {
  const { current } = list;
  try {
    const { image, reason, forecast } = await request("GET", "/api/suggestion");
    app.forecast = forecast ?? null;
    renderScores(app.project.scores, app.forecast);
    if (image === null || image === undefined) return announce(reason || "Every image has labels.");
    if (list.current !== current) return; // the user has opened another one meanwhile
    openImage(image);
    announce(`${app.session.image.name}: ${reason}`);
  } catch (error) {
    fail(error);
  }
}

// ---- events of the server ----

const stream = new EventStream(
  {
    strokes: ({ image }) => {
      if (image === app.session.image?.id) app.session.refreshStrokes().catch(fail);
      app.refreshProject().catch(fail);
    },
    project: () => app.refreshProject().catch(fail),
    score: () => app.refreshProject().catch(fail),
    prediction: ({ image, seconds }) => {
      if (image === app.session.image?.id) app.session.takePrediction(seconds).catch(fail);
      const entry = app.project.images.find(({ id }) => id === image);
      if (!entry || entry.has_prediction) return;
      entry.has_prediction = true;
      list.render(app.project.images);
    },
    status: ({ text, busy }) => {
      showLearner(text, busy);
      if (!busy) app.session.settle();
    },
    failure: ({ text }) => announce(text, true),
  },
  (state, project) => {
    if (state === "online") connected(project);
    showConnection();
  },
);

function showLearner(text, isBusy) {
  byId("learner").lastElementChild.textContent = text;
  byId("learner").dataset.busy = String(isBusy);
  renderSession(app.session);
}

function connected(project) {
  const isAgain = app.project !== null;
  applyProject(project);
  if (app.project !== project) return; // the page is loaded again
  app.outbox.read();
  app.outbox.flush();
  if (isAgain) app.session.reload().catch(fail);
}

function showConnection() {
  const { state } = stream;
  const count = app.outbox?.count ?? 0;
  const badge = byId("connection");
  const isSaving = state === "online" && count > 0;
  badge.dataset.state = isSaving ? "saving" : state;
  const texts = { online: "All saved", offline: "No connection", refused: "Not accepted", starting: "Connecting" };
  badge.lastElementChild.textContent = isSaving ? "Saving" : texts[state];
  const banner = byId("banner");
  const isLost = state === "offline" || state === "refused";
  if (isLost) showLearner("", false);
  const kept = count === 1 ? " 1 stroke is kept in this browser." : ` ${count} strokes are kept in this browser.`;
  const text = isLost ? (state === "offline" ? OFFLINE : REFUSED) + (count ? kept : "") : "";
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = !isLost;
}

// ---- drawing ----

let lastPoint = null; // of the pointer, in CSS pixels of the canvas

const brush = new Brush(app.view, {
  settings: (isEraser) => {
    const tool = isEraser ? "erase" : panel.tool;
    const value = tool === "erase" ? null : palette.value();
    if (tool === "paint" && value === null) return null;
    if (!app.show.labels) panel.toggle("labels");
    return { tool, value, radius: panel.radius };
  },
  preview: (stroke, from) => app.session.preview(stroke, from),
  finish: (stroke) => app.session.finish(stroke),
  drop: () => app.session.drop(),
  say: (text) => announce(text),
  moved: ([x, y]) => {
    app.view.brush = { x, y, radius: panel.radius, isErasing: panel.tool === "erase", isCursor: true };
    app.view.redraw();
  },
});

function showBrush(point) {
  lastPoint = point;
  if (!app.view.image) return;
  if (point) {
    const [x, y] = app.view.toImage(point);
    app.view.brush = { x, y, radius: panel.radius, isErasing: panel.tool === "erase" };
  } else if (app.view.brush?.isCursor) {
    Object.assign(app.view.brush, { radius: panel.radius, isErasing: panel.tool === "erase" });
  } else app.view.brush = null;
  app.view.redraw();
}

const gestures = new Gestures(byId("canvas"), {
  start: (point, options) => {
    brush.cursor = null;
    showBrush(point);
    brush.start(app.view.toImage(point), options);
  },
  extend: (points) => {
    showBrush(points.at(-1));
    brush.extend(points.map((point) => app.view.toImage(point)));
  },
  end: () => brush.end(),
  cancel: () => brush.cancel(),
  hover: (point) => showBrush(point),
  pan: (dx, dy) => app.view.pan(dx, dy),
  zoom: (factor, point) => app.view.zoom(factor, point),
});
byId("canvas").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (brush.key(event)) event.preventDefault();
});
byId("canvas").addEventListener("blur", () => {
  if (app.view.brush?.isCursor) brush.end();
});

// ---- buttons and keys ----

function toggleImages(isOpen) {
  document.body.classList.toggle("images-open", isOpen);
  byId("show-images").setAttribute("aria-expanded", String(isOpen));
  if (isOpen) byId("list").focus();
  else byId("show-images").focus();
}

async function exportAll() {
  const button = byId("export");
  button.disabled = true;
  announce("Exporting labels and model.");
  try {
    if (!(await app.outbox.flush())) throw new Error("Not exported: the server cannot be reached.");
    showExport(await request("POST", "/api/export", {}, 600_000));
  } catch (error) {
    announce(error.message, true);
  } finally {
    button.disabled = false;
  }
}

function showExport({ folder, labels, missing, model, command }) {
  announce("Labels and model exported.");
  const count = labels === 1 ? "1 image" : `${labels} images`;
  const lines = { Folder: folder, Labels: count, Model: model ?? "none yet: label more pixels" };
  if (missing) lines.Missing = missing;
  const rows = Object.entries(lines).map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, String(value))),
  );
  byId("exported-list").replaceChildren(...rows);
  byId("exported-command").textContent = command;
  byId("exported").showModal();
}

const on = (id, action) => byId(id).addEventListener("click", action);
on("show-images", () => toggleImages(!document.body.classList.contains("images-open")));
on("hide-images", () => toggleImages(false));
on("list", () => document.body.classList.contains("images-open") && toggleImages(false));
on("previous", () => openNeighbour(-1));
on("following", () => openNeighbour(1));
on("zoom-in", () => app.view.zoom(1.4));
on("zoom-out", () => app.view.zoom(1 / 1.4));
on("fit", () => app.view.fit());
on("undo", () => app.session.undo());
on("redo", () => app.session.redo());
on("accept", () => app.session.accept());
on("next", openSuggestion);
on("export", exportAll);
on("show-help", () => byId("help").showModal());
on("copy-command", async () => {
  await navigator.clipboard.writeText(byId("exported-command").textContent);
  announce("Command copied.");
});
for (const input of document.querySelectorAll("input[name=tool]")) {
  input.addEventListener("change", () => showBrush(lastPoint));
}
listenToKeys({
  undo: () => (brush.isDrawing ? brush.cancel() : app.session.undo()),
  redo: () => app.session.redo(),
  digit: (index) => {
    panel.setTool("paint");
    palette.choose(index);
  },
  space: (isDown) => gestures.holdSpace(isDown),
  keys: {
    b: () => panel.setTool("paint"),
    e: () => panel.setTool("erase"),
    "[": () => panel.stepRadius(-1),
    "]": () => panel.stepRadius(1),
    f: () => app.view.fit(),
    "+": () => app.view.zoom(1.4),
    "=": () => app.view.zoom(1.4),
    "-": () => app.view.zoom(1 / 1.4),
    l: () => panel.toggle("labels"),
    p: () => panel.toggle("prediction"),
    u: () => panel.toggle("uncertainty"),
    a: () => byId("accept").disabled || app.session.accept(),
    n: openSuggestion,
    pageup: () => openNeighbour(-1),
    pagedown: () => openNeighbour(1),
    "?": () => byId("help").showModal(),
    escape: () => document.body.classList.contains("images-open") && toggleImages(false),
  },
});
stream.check();
