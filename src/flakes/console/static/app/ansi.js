// @ts-check
/** Terminal colours as classes: the sixteen that people use. Every other sequence is left out. */
const SEQUENCE = /\x1b(?:\[([0-9;?]*)([A-Za-z])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Za-z0-9]|.)/g;

/** Pieces of a line with their class. @param {string} line @returns {[string, string][]} */
export function pieces(line) {
  const shown = line.includes("\r") ? line.slice(line.replace(/\r+$/, "").lastIndexOf("\r") + 1) : line;
  if (!shown.includes("\x1b")) return [["", shown]];
  /** @type {[string, string][]} */
  const found = [];
  let at = 0, style = { colour: "", bold: false, faint: false };
  for (const match of shown.matchAll(SEQUENCE)) {
    if (match.index > at) found.push([classOf(style), shown.slice(at, match.index)]);
    at = match.index + match[0].length;
    if (match[2] === "m") style = apply(style, match[1] ?? "");
  }
  if (at < shown.length) found.push([classOf(style), shown.slice(at)]);
  return found;
}

/** @param {{colour: string, bold: boolean, faint: boolean}} style @param {string} codes */
function apply(style, codes) {
  const next = { ...style }, list = codes === "" ? [0] : codes.split(";").map(Number);
  for (let i = 0; i < list.length; i++) {
    const code = list[i];
    if (code === 0) Object.assign(next, { colour: "", bold: false, faint: false });
    else if (code === 1) next.bold = true;
    else if (code === 2) next.faint = true;
    else if (code === 22) next.bold = next.faint = false;
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) next.colour = `ansi-${code % 10}`;
    else if (code === 39) next.colour = "";
    else if (code === 38 || code === 48) i += list[i + 1] === 5 ? 2 : 4;
  }
  return next;
}

/** @param {{colour: string, bold: boolean, faint: boolean}} style */
const classOf = ({ colour, bold, faint }) => [colour, bold && "ansi-bold", faint && "ansi-faint"].filter(Boolean).join(" ");
