// The held-out score and its history as a line, with the forecast as a band.

import { byId, makeSvg, short } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [260, 120, 40, 22, 8, 8];
const MIN_SPAN = 0.1; // of an axis, as a fraction of its end: small changes must not look large

/**
 * Draw the scores of a project.
 * @param {Array} scores {labelled_images, score, metric, higher_is_better}, oldest first
 * @param {object|null} forecast {labelled_images, score, low, high}, lists of one length
 */
export function renderScores(scores, forecast) {
  const chart = byId("score-chart");
  const last = scores.at(-1);
  if (!last) {
    byId("score-text").textContent = "Label at least three images: then each is predicted by a model that has not seen it.";
    chart.replaceChildren();
    return;
  }
  byId("score-text").textContent = `${named(last)}, ${last.labelled_images} labelled images`;
  byId("score-text").title = last.higher_is_better ? "Higher is better" : "Lower is better";
  chart.replaceChildren(drawChart(scores, usable(forecast)));
}

/** Return a score with the name and the unit of its metric, which are written as "mIoU, %". */
function named({ metric, score }) {
  const [name, unit = ""] = metric.split(", ");
  return `${name} ${Number(score.toPrecision(3))} ${unit}`.trim();
}

function usable(forecast) {
  const count = forecast?.labelled_images?.length ?? 0;
  return count && forecast.low.length === count ? forecast : null;
}

function drawChart(scores, forecast) {
  const xs = [...scores.map((s) => s.labelled_images), ...(forecast?.labelled_images ?? [])];
  const ys = [...scores.map((s) => s.score), ...(forecast?.low ?? []), ...(forecast?.high ?? [])];
  const x = axis(xs, LEFT, WIDTH - RIGHT);
  const y = axis(ys, HEIGHT - BOTTOM, TOP);
  const svg = makeSvg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": describe(scores, forecast),
  });
  svg.append(...frame(x, y));
  if (forecast) svg.append(...band(forecast, x, y));
  const points = scores.map((s) => [x.at(s.labelled_images), y.at(s.score)]);
  svg.append(makeSvg("polyline", { class: "line", points: points.join(" ") }));
  scores.forEach((s, index) => {
    const [cx, cy] = points[index];
    const title = makeSvg("title", {}, `${s.labelled_images} images: ${short(s.score)}`);
    svg.append(makeSvg("circle", { class: "dot", cx, cy, r: 3 }, title));
  });
  return svg;
}

/** Return {low, high, at} of an axis from `from` to `to` that covers the values. */
function axis(values, from, to) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  const missing = Math.max(Math.abs(high) * MIN_SPAN - (high - low), high === low ? 2 : 0);
  [low, high] = [low - missing / 2, high + missing / 2];
  return { low, high, at: (value) => from + ((value - low) / (high - low)) * (to - from) };
}

function frame(x, y) {
  const text = (value, attributes) => makeSvg("text", attributes, String(Number(value.toPrecision(3))));
  return [
    makeSvg("path", { class: "axis", d: `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` }),
    text(y.high, { x: LEFT - 5, y: TOP + 8, "text-anchor": "end" }),
    text(y.low, { x: LEFT - 5, y: HEIGHT - BOTTOM, "text-anchor": "end" }),
    text(Math.max(0, x.low), { x: LEFT, y: HEIGHT - 7, "text-anchor": "start" }),
    makeSvg("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 7, "text-anchor": "middle" }, "labelled images"),
    text(x.high, { x: WIDTH - RIGHT, y: HEIGHT - 7, "text-anchor": "end" }),
  ];
}

function band({ labelled_images: n, score, low, high }, x, y) {
  const along = (values) => n.map((count, i) => [x.at(count), y.at(values[i])]);
  const outline = [...along(high), ...along(low).reverse()];
  const title = makeSvg("title", {}, "Forecast with its 90 % interval");
  return [
    makeSvg("polygon", { class: "band", points: outline.join(" ") }, title),
    makeSvg("polyline", { class: "forecast", points: along(score).join(" ") }),
  ];
}

function describe(scores, forecast) {
  const parts = scores.slice(-6).map((s) => `${s.labelled_images} images ${short(s.score)}`);
  const direction = scores.at(-1).higher_is_better ? "higher is better" : "lower is better";
  const text = `Held-out score, ${scores.at(-1).metric}, ${direction}: ${parts.join(", ")}.`;
  if (!forecast) return text;
  const end = forecast.labelled_images.length - 1;
  const range = `${short(forecast.low[end])} to ${short(forecast.high[end])}`;
  return `${text} Forecast with ${forecast.labelled_images[end]} images: ${range}.`;
}
