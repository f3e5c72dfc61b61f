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

/** @param {number} step @param {Event} event */
function move(step, event) {
  const all = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("main a[data-row]")]);
  if (!all.length) return;
  const at = all.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  const next = at < 0 ? all[step > 0 ? 0 : all.length - 1] : all[at + step];
  if (!next) return;
  next.focus({ preventScroll: true });
  next.closest("[role=row]")?.scrollIntoView({ block: "nearest" });
  event.preventDefault();
}
