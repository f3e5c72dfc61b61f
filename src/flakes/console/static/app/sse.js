// @ts-check
/** Server-sent events from pieces of text, as the specification has it, for streams that `fetch` reads. */
export class SseParser {
  constructor() {
    this.rest = "";
    this.frame = { id: "", event: "message", data: /** @type {string[]} */ ([]) };
  }

  /** The frames that this piece completes. @param {string} text @returns {{id: string, event: string, data: string}[]} */
  push(text) {
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop() ?? "";
    const frames = [];
    for (const line of lines) {
      if (line === "") {
        const { id, event, data } = this.frame;
        if (data.length || id) frames.push({ id, event, data: data.join("\n") });
        this.frame = { id: "", event: "message", data: [] };
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue;
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "data") this.frame.data.push(value);
      else if (field === "id") this.frame.id = value;
      else if (field === "event") this.frame.event = value;
    }
    return frames;
  }
}
