// @ts-check
/** What differs between two sets of files: the list of them, and the lines of each. A file has an address. */
import { get, v1 } from "../api.js";
import { BASE, place, setQuery } from "../router.js";
import { count, cx, html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../lib.js";
import { firstLines, hunksOf, replaced, visible } from "../patch.js";
import { Problem, bytes } from "../ui/parts.js";

const PAGE = 50, LINES_FIRST = 400, LINE = 19, AT = 25;
/** @type {Record<string, [string, string]>} */
const KINDS = { added: ["A", "added"], changed: ["M", "changed"], removed: ["D", "removed"], renamed: ["R", "renamed"] };
const NOTHING = "000000", LINK = "120000", MODULE = "160000";

/**
 * Pages of a diff, as far as they were asked for.
 * @param {string} workspaceId @param {string | undefined} base
 */
function useDiff(workspaceId, base) {
  const [state, setState] = useState({ files: /** @type {any[]} */ ([]), total: -1, cursor: "", error: /** @type {any} */ (null) });
  const own = useRef({ key: "", busy: false }).current, key = `${workspaceId} ${base ?? ""}`;
  const more = async (/** @type {string} */ cursor) => {
    if (own.busy && own.key === key) return;
    own.busy = true;
    own.key = key;
    try {
      const page = await get(v1("workspaces", workspaceId, "diff"), { base, limit: PAGE, renames: true, cursor });
      if (own.key !== key) return;
      setState((s) => ({ files: cursor ? [...s.files, ...page.files] : page.files, total: page.fileCount, cursor: page.nextCursor ?? "", error: null }));
    } catch (error) {
      if (own.key === key) setState((s) => ({ ...s, error }));
    } finally {
      if (own.key === key) own.busy = false;
    }
  };
  useEffect(() => { setState({ files: [], total: -1, cursor: "", error: null }); own.key = ""; own.busy = false; more(""); return () => { own.key = "gone"; }; }, [key]);
  return { ...state, more: () => more(state.cursor) };
}

/** `known`: paths that are told when nobody can make a diff. @param {{workspaceId: string, base?: string, known?: any}} props */
export function Diff({ workspaceId, base, known = null }) {
  const { files, total, cursor, error, more } = useDiff(workspaceId, base);
  const wanted = place.value.query.get("file") ?? "", list = useRef(/** @type {HTMLElement | null} */ (null));
  const end = useRef(/** @type {HTMLDivElement | null} */ (null)), there = files.some((f) => f.path === wanted);
  // A file of a later page is read for, then shown.
  useEffect(() => { if (wanted && !there && cursor && !error) more(); }, [wanted, there, cursor, error]);
  useLayoutEffect(() => { if (there) show(wanted, list.current); }, [wanted, there]);
  useEffect(() => {
    if (!cursor || !end.current) return;
    const observer = new IntersectionObserver((seen) => { if (seen.some((e) => e.isIntersecting)) more(); }, { rootMargin: "1200px" });
    observer.observe(end.current);
    return () => observer.disconnect();
  }, [cursor, files.length]);

  if (total < 0) return error ? html`<${Problem} error=${error} retry=${more} />${known}` : html`<div class="diff-box"><div class="diff" role="status" aria-label="Loading"><div class="diff-files card" /><div class="loading"><i /><i /><i /></div></div></div>`;
  if (total === 0) return html`<p class="muted">Nothing differs.</p>`;
  const sum = (/** @type {"addedLines" | "removedLines"} */ name) => files.reduce((n, f) => n + (f[name] ?? 0), 0);
  const unread = total - files.length;
  return html`<div class="diff-box"><div class="diff">
    <nav class="diff-files card" aria-label="Changed files" ref=${list}>
      <p class="diff-sum"><strong>${count(total, "file")}</strong>${unread > 0 && html`<small class="muted"> ${files.length.toLocaleString("en")} read</small>`}<span class="spring" /><${Counts} added=${sum("addedLines")} removed=${sum("removedLines")} /></p>
      <${Names} files=${files} wanted=${wanted} />
      ${unread > 0 && html`<button class="quiet" onClick=${more}>${unread.toLocaleString("en")} more</button>`}
    </nav>
    <div class="diff-bodies">
      ${wanted && !there && !cursor && html`<p class="notice warn">No file of that name differs: <code>${wanted}</code></p>`}
      ${files.map((file) => html`<${File} key=${file.path} file=${file} chosen=${file.path === wanted} />`)}
      ${error && html`<${Problem} error=${error} retry=${more} />`}
      ${cursor && html`<div class="more muted" role="status" ref=${end}>Reading more files…</div>`}
    </div></div></div>`;
}

/** Bring a file and its name into sight, and the keyboard to it. @param {string} path @param {HTMLElement | null} list */
function show(path, list) {
  const card = [...document.querySelectorAll(".diff-file")].find((each) => /** @type {HTMLElement} */ (each).dataset.file === path);
  const head = /** @type {HTMLElement | null} */ (card?.querySelector("a[data-row]") ?? null);
  if (!card || !head) return;
  if (document.activeElement !== head) { head.focus({ preventScroll: true }); card.scrollIntoView({ block: "start" }); }
  const name = /** @type {HTMLElement | null | undefined} */ (list?.querySelector("[aria-current]"));
  if (list && name && list.scrollHeight > list.clientHeight) list.scrollTop = name.offsetTop - list.clientHeight / 2;
}

/** @param {string} path */
const address = (path) => { const query = new URLSearchParams(place.value.query); query.set("file", path); return `${BASE}${place.value.path}?${query}`; };
const dirOf = (/** @type {string} */ path) => path.slice(0, path.lastIndexOf("/") + 1);

/** File names under their directories. @param {{files: any[], wanted: string}} props */
function Names({ files, wanted }) {
  return html`<ul>${files.map((file, i) => { const dir = dirOf(file.path), [letter, word] = KINDS[file.kind]; return html`
    ${dir && dir !== dirOf(files[i - 1]?.path ?? "") && html`<li class="diff-dir muted" key=${`${file.path}/`} title=${dir}><bdi>${dir}</bdi></li>`}
    <li key=${file.path}><a href=${address(file.path)} class=${cx("diff-name", dir && "in")} aria-current=${file.path === wanted ? "true" : null} title=${file.path}><b class=${`is-${file.kind}`} aria-hidden="true">${letter}</b><span class="sr">${word} </span><span class="ellipsis">${file.path.slice(dir.length)}</span><${Counts} added=${file.addedLines} removed=${file.removedLines} /></a></li>`; })}</ul>`;
}

/** @param {{added?: number | null, removed?: number | null}} props */
function Counts({ added, removed }) {
  if (!added && !removed) return null;
  return html`<span class="diff-counts num">${added ? html`<em class="come">+${added.toLocaleString("en")}<span class="sr"> lines added</span></em>` : null}${removed ? html`<em class="gone">−${removed.toLocaleString("en")}<span class="sr"> lines removed</span></em>` : null}</span>`;
}

/** One file: its name, what kind of change it is, and its lines. @param {{file: any, chosen: boolean}} props */
function File({ file, chosen }) {
  const [open, setOpen] = useState(true), [letter, word] = KINDS[file.kind];
  const notes = notesOf(file);
  return html`<section class=${cx("diff-file card", chosen && "chosen")} data-file=${file.path} aria-label=${file.path}>
    <header class="diff-head">
      <button class="quiet fold" aria-expanded=${open ? "true" : "false"} aria-label=${`Lines of ${file.path}`} onClick=${() => setOpen(!open)}>${open ? "▾" : "▸"}</button>
      <b class=${`is-${file.kind}`} title=${word}><span aria-hidden="true">${letter}</span><span class="sr">${word} </span></b>
      <a href=${address(file.path)} data-row="file" onFocus=${() => { if (!chosen) setQuery({ file: file.path }); }}>${file.oldPath && html`<span class="muted">${file.oldPath} → </span>`}${file.path}</a>
      <span class="spring" />${notes.map((text) => html`<small key=${text} class="tally">${text}</small>`)}<${Counts} added=${file.addedLines} removed=${file.removedLines} />
    </header>
    ${open && html`<${Body} file=${file} />`}
  </section>`;
}

/** What its lines do not tell. @param {any} file */
function notesOf(file) {
  const { oldMode, newMode } = file, notes = [];
  if (file.kind === "renamed") notes.push(file.alikePercent === 100 ? "moved as it was" : `moved, ${file.alikePercent} % alike`);
  if (newMode === LINK && oldMode !== LINK) notes.push(oldMode === NOTHING ? "symbolic link" : "became a symbolic link");
  else if (oldMode === LINK && newMode !== LINK) notes.push(newMode === NOTHING ? "symbolic link" : "was a symbolic link");
  else if (newMode === "100755" && oldMode === "100644") notes.push("made executable");
  else if (newMode === "100644" && oldMode === "100755") notes.push("no longer executable");
  else if (newMode === "100755" && oldMode === NOTHING) notes.push("executable");
  if (newMode === MODULE || oldMode === MODULE) notes.push("submodule");
  if (file.patchBase64 !== undefined) notes.push("not UTF-8, read as Latin-1");
  return notes;
}

/** Why there are no lines. @param {any} file */
function whyNone(file) {
  const sizes = file.oldSizeBytes != null && file.newSizeBytes != null ? `${bytes(file.oldSizeBytes)} became ${bytes(file.newSizeBytes)}` : bytes(file.newSizeBytes ?? file.oldSizeBytes);
  if (file.omitted === "binary") return `Not text: ${sizes}.`;
  if (file.omitted === "too_large") return html`Too large to show here: ${sizes}. On a command line: <code>flakes diff</code>`;
  if (file.omitted === "submodule") return "A repository inside this one: which commit of it is meant has changed, and its files are not here.";
  if (file.kind === "renamed") return "No line changed.";
  if (file.kind === "changed") return "No line changed: only how the file may be used.";
  return "The file is empty.";
}

/** @param {{file: any}} props */
function Body({ file }) {
  const [whole, setWhole] = useState(false);
  const patch = useMemo(() => (file.patchBase64 === undefined ? file.patch ?? "" : atob(file.patchBase64)), [file]);
  const all = useMemo(() => hunksOf(patch), [patch]);
  const lines = all.reduce((n, hunk) => n + hunk.lines.length, 0);
  const shown = whole || lines <= LINES_FIRST * 1.25 ? all : firstLines(all, LINES_FIRST), left = lines - shown.reduce((n, hunk) => n + hunk.lines.length, 0);
  const nodes = useMemo(() => shown.map((hunk, i) => html`<${Lines} key=${i} hunk=${hunk} />`), [all, whole]);
  if (!all.length) return html`<p class="diff-none muted">${whyNone(file)}</p>`;
  const height = shown.reduce((n, hunk) => n + AT + LINE * hunk.lines.length, 0);
  return html`<div class="diff-body" tabindex="0" role="group" aria-label=${`Lines of ${file.path}`} style=${{ containIntrinsicBlockSize: `auto ${height}px` }}>${nodes}</div>
    ${left > 0 && html`<div class="diff-rest"><button onClick=${() => setWhole(true)}>Show the other ${count(left, "line")}</button></div>`}`;
}

/** @param {{hunk: import("../patch.js").Hunk}} props */
function Lines({ hunk }) {
  const differs = replaced(hunk.lines);
  const column = (/** @type {"old" | "now"} */ side) => hunk.lines.map((line) => line[side] ?? "").join("\n");
  return html`<div class="diff-at"><span>${hunk.at}</span> ${hunk.context}</div>
    <div class="diff-lines"><pre class="diff-numbers" aria-hidden="true">${column("old")}</pre><pre class="diff-numbers" aria-hidden="true">${column("now")}</pre>
      <pre class="diff-code">${hunk.lines.map((line) => lineOf(line, differs.get(line)))}</pre></div>`;
}

const CLASSES = { "+": "come", "-": "gone", "\\": "note", " ": null };
/** @param {import("../patch.js").Line} line @param {[number, number] | undefined} differs */
function lineOf({ sign, text }, differs) {
  if (sign === " ") return [seen(` ${text}`), "\n"];
  if (sign === "\\") return html`<span class="note">  ${text}${"\n"}</span>`;
  if (!differs || differs[0] >= differs[1]) return html`<span class=${CLASSES[sign]}>${sign}${seen(text)}${"\n"}</span>`;
  return html`<span class=${CLASSES[sign]}>${sign}${seen(text.slice(0, differs[0]))}<mark>${seen(text.slice(differs[0], differs[1]))}</mark>${seen(text.slice(differs[1]))}${"\n"}</span>`;
}

/** @param {string} text */
function seen(text) {
  const pieces = visible(text);
  return pieces.length === 1 && !pieces[0][1] ? text : pieces.map(([piece, hidden]) => (hidden ? html`<i class="hidden-sign">${piece}</i>` : piece));
}
