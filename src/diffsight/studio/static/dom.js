// Small helpers for the document. Data of users enters it as text only.

/** Return the element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * Return a new element.
 * @param {string} name such as "button"
 * @param {object} attributes properties; keys with a hyphen, "role", "for" and "list" are attributes
 * @param {...(Node|string)} children strings become text
 */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null) continue;
    if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** Return a new SVG element with these attributes. */
export function makeSvg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

let clearing = 0;

/** Show a line under the picture and read it aloud. Errors stay until the next line. */
export function announce(text, isError = false) {
  const line = byId("message");
  clearTimeout(clearing);
  line.textContent = text;
  line.dataset.error = String(isError);
  if (!isError && text) clearing = setTimeout(() => (line.textContent = ""), 12_000);
}

/**
 * Return a function that runs `work`, and once more if it is called while that runs.
 * @param {function} work asynchronous, without arguments
 * @param {number} pause_ms between two runs
 */
export function latest(work, pause_ms = 0) {
  let running = null;
  let again = false;
  const run = async () => {
    for (;;) {
      again = false;
      try {
        await work();
      } catch (error) {
        // a call meanwhile may be about another image: then its run counts
        if (!again) {
          running = null;
          throw error;
        }
      }
      if (!again) {
        running = null;
        return;
      }
      if (pause_ms) await new Promise((resolve) => setTimeout(resolve, pause_ms));
    }
  };
  return () => {
    if (running) {
      again = true;
      return running;
    }
    running = run();
    return running;
  };
}

/** Return the number with a thin space between thousands. */
export const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u2009");

/** Return a number as a short text without trailing zeros. */
export const short = (number) => String(Number(number.toPrecision(4)));
