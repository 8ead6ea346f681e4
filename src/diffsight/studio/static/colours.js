// Colours of classes and numbers.

/** Return the CSS colour of a fraction in [0, 1]: pale yellow (low) to dark blue, as predictions are drawn. */
export function rampColour(fraction) {
  const t = Math.min(Math.max(fraction, 0), 1);
  const chroma = 0.18 * Math.sin(Math.PI * (0.13 + 0.77 * t));
  return `oklch(${(0.92 - 0.69 * t).toFixed(4)} ${chroma.toFixed(4)} ${(95 - 190 * t).toFixed(1)})`;
}

/**
 * Return the function from a stroke's value to its CSS colour.
 * @param {object} project as the server sends it
 * @param {Array} strokes of the image; their values count where the project has no range
 */
export function strokeColours(project, strokes) {
  if (project.kind !== "scalar") {
    const colours = new Map(project.classes.map(({ id, colour }) => [id, colour]));
    return (value) => colours.get(value) ?? "#808080";
  }
  const [low, high] = project.range ?? rangeOf(strokes);
  return (value) => rampColour(high > low ? (value - low) / (high - low) : 0.5);
}

function rangeOf(strokes) {
  const values = strokes.filter((s) => s.tool === "paint").map((s) => s.value);
  return values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
}
