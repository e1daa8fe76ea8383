// What the agent did, in order: tools with their durations, its thoughts, and what it had to wait for.
import { el } from "./dom.js";
import { duration, growing } from "./format.js";
import { word } from "./words.js";

const SHOWN_CHARACTERS = 20000;

export class Timeline {
  #root;
  #tools = new Map();
  #thought = null; // the block that the model's thinking goes into, until something else happens
  #startedAt = null;

  constructor(root) {
    this.#root = root;
  }

  clear() {
    this.#root.replaceChildren();
    this.#tools.clear();
    this.#thought = null;
    this.#startedAt = null;
  }

  get empty() {
    return this.#root.childElementCount === 0;
  }

  start(at) {
    this.#startedAt ??= at;
  }

  toolStarted(event) {
    this.start(event.at);
    this.#thought = null;
    const took = el("span", { class: "took" });
    const bar = el("span", { class: "stretch" });
    const children = el("ol", { class: "timeline" });
    const state = el("span", { class: "unseen" }, word("running"));
    const inside = el("div", { class: "inside" });
    const item = el("li", { class: "tool running" },
      el("details", {},
        el("summary", {},
          el("span", { class: "name" }, event.name), el("span", { class: "summary" }, event.summary), took, state,
          el("span", { class: "track", "aria-hidden": "true" }, bar)),
        inside),
      children);
    if (event.input) inside.append(labelled(word("input"), event.input));
    const parent = event.parent_tool_id && this.#tools.get(event.parent_tool_id);
    (parent ? parent.children : this.#root).append(item);
    this.#tools.set(event.tool_id, { item, took, bar, state, inside, children, from: event.at, to: null });
  }

  toolFinished(event) {
    const tool = this.#tools.get(event.tool_id);
    if (!tool || tool.to !== null) return;
    this.#thought = null;
    tool.to = event.at;
    this.#end(tool, event.is_error ? "failed" : "done");
    tool.inside.append(labelled(word(event.is_error ? "error" : "output"), event.output || word("empty"), event.truncated));
  }

  /** A piece of the model's thinking; neighbours are one block. */
  reasoning(event) {
    this.start(event.at);
    if (!this.#thought) {
      this.#thought = document.createTextNode("");
      const words = el("div", { class: "words" }, this.#thought);
      this.#root.append(el("li", { class: "thought" },
        el("details", {}, el("summary", {}, el("span", { class: "name" }, word("thinking")),
          el("span", { class: "offset" }, this.#offset(event.at))), words)));
    }
    this.#thought.appendData(event.text);
  }

  note(at, text) {
    this.start(at);
    this.#thought = null;
    this.#root.append(el("li", { class: "remark" }, el("span", {}, text), " ", el("span", { class: "offset" }, this.#offset(at))));
  }

  /** The model writes its answer: what it thinks next is a new thought. */
  answering() {
    this.#thought = null;
  }

  /** The run has ended: no tool runs any more. */
  end(at) {
    for (const tool of this.#tools.values()) {
      if (tool.to === null) {
        tool.to = at;
        this.#end(tool, "failed");
        tool.inside.append(el("p", { class: "note" }, word("unfinished")));
      }
    }
  }

  /** Draw durations and bars as they are at the time `now`. */
  draw(now) {
    const span = Math.max(now - this.#startedAt, 0.001);
    for (const { took, bar, from, to } of this.#tools.values()) {
      const words = to === null ? growing(now - from) : duration(to - from);
      if (took.textContent !== words) took.textContent = words;
      const left = Math.min(Math.max((from - this.#startedAt) / span, 0), 1);
      bar.style.left = `${left * 100}%`;
      bar.style.width = `${Math.min(Math.max(((to ?? now) - from) / span, 0), 1 - left) * 100}%`;
    }
  }

  #end(tool, how) {
    tool.item.className = `tool ${how}`;
    tool.state.textContent = word(how);
  }

  #offset(at) {
    return word("after", { time: duration(at - this.#startedAt) });
  }
}

function labelled(name, text, truncated = false) {
  const shown = text.slice(0, SHOWN_CHARACTERS);
  const cut = truncated || shown.length < text.length;
  return el("div", {}, el("p", { class: "by" }, name), el("pre", { tabindex: "0", role: "group", "aria-label": name }, readable(shown)),
    cut ? el("p", { class: "note" }, word("cut")) : null);
}

/** JSON with line breaks; anything else as it is. */
function readable(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? JSON.stringify(value, null, 2) : text;
  } catch {
    return text;
  }
}
