// @ts-check
/** The keyboard: `/` search, `j` `k` move, Enter opens (a row is a link), `g` and a letter go somewhere, `?` helps. */
import { navigate } from "../router.js";
import { signal } from "../lib.js";

export const helpOpen = signal(false);
/** @type {[string, string, string][]} */
export const PLACES = [["r", "/runs", "runs"], ["i", "/inbox", "inbox"], ["p", "/projects", "projects"], ["h", "/hosts", "hosts"], ["s", "/sandboxes", "sandboxes"], ["d", "/docs", "documentation"], ["a", "/account", "account"], ["n", "/new", "new run"]];

let pending = "";
let forgetting = 0;

export function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey) return;
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.closest("input, textarea, select, [contenteditable], dialog")) {
      if (event.key === "Escape" && target.matches("input[type=search]")) target.blur();
      return;
    }
    if (pending === "g") {
      pending = "";
      const found = PLACES.find(([letter]) => letter === event.key);
      if (found) { event.preventDefault(); navigate(found[1]); }
      return;
    }
    if (event.key === "g") {
      pending = "g";
      clearTimeout(forgetting);
      forgetting = setTimeout(() => { pending = ""; }, 1_200);
    }
    else if (event.key === "?") { helpOpen.value = true; event.preventDefault(); }
    else if (event.key === "/") {
      const search = /** @type {HTMLElement | null} */ (document.querySelector("main input[type=search]"));
      if (search) { search.focus(); event.preventDefault(); } else navigate("/runs?focus=search");
    } else if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1, event);
  });
}

/** @param {HTMLElement[]} all @param {number} at @param {number} step */
const next = (all, at, step) => (at < 0 ? all[step > 0 ? 0 : all.length - 1] : all[at + step]);

/** Long things are walked from the one that is read: the first whose head is below the top, or the last above it. @param {HTMLElement[]} all @param {number} step */
function inSight(all, step) {
  const below = all.findIndex((each) => each.getBoundingClientRect().top > 48);
  return step > 0 ? all[below] : all[(below < 0 ? all.length : below) - 1];
}

/** @param {number} step @param {Event} event */
function move(step, event) {
  const all = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("main a[data-row]")]);
  if (!all.length) return;
  const at = all.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  const file = next(all, at, step)?.closest("[data-file]");
  const found = file && at < 0 ? inSight(all, step) : next(all, at, step);
  if (!found) return;
  found.focus({ preventScroll: true });
  if (file) found.closest("[data-file]")?.scrollIntoView({ block: "start" });
  else found.closest("[role=row], tr")?.scrollIntoView({ block: "nearest" });
  event.preventDefault();
}
