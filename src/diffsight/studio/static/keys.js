// Keys of the whole page. Keys without Ctrl do nothing while text is typed or a dialog is open.

/** Return whether a key pressed now belongs to the focused element. */
function isTyping(target) {
  if (target.closest("dialog")) return true;
  const isText = target.matches("input:not([type=checkbox], [type=radio], [type=range], [type=color])");
  return isText || target.matches("textarea, select");
}

/**
 * Listen to keys.
 * @param {object} actions by name of the key as in KeyboardEvent.key, lower case; `digit` gets an index;
 *   `undo` and `redo`; `space` gets whether the key is down
 */
export function listenToKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey) return;
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (isTyping(event.target) || !["z", "y"].includes(key)) return;
      event.preventDefault();
      if (key === "y" || event.shiftKey) actions.redo();
      else actions.undo();
      return;
    }
    if (isTyping(event.target)) return;
    if (key === " ") {
      // elsewhere the space key presses the focused button
      if (!event.target.matches("body, canvas")) return;
      event.preventDefault();
      actions.space(true);
      return;
    }
    const isDigit = /^[1-9]$/.test(key);
    const isRange = event.target.matches("[type=range], [role=listbox]");
    if (isRange && (key.startsWith("page") || key.startsWith("arrow"))) return;
    if (isDigit) actions.digit(Number(key) - 1);
    else if (Object.hasOwn(actions.keys, key)) actions.keys[key](event);
    else return;
    event.preventDefault();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") actions.space(false);
  });
  addEventListener("blur", () => actions.space(false));
}
