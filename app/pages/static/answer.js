// The answer as it grows, for the eye at once, and for a screen reader by the paragraph.

const SPOKEN_PARAGRAPHS = 20;

export class Answer {
  #node = document.createTextNode("");
  #place;
  #spoken;
  #said = 0; // up to where the answer was handed to the screen reader

  constructor(place, spoken) {
    this.#place = place;
    this.#spoken = spoken;
    place.replaceChildren(this.#node);
  }

  get text() {
    return this.#node.data;
  }

  clear() {
    this.#node.data = "";
    this.#said = 0;
  }

  add(text) {
    this.#node.appendData(text);
  }

  /** Take the last code points off; a string's length counts other units. */
  retract(characters) {
    this.#node.data = Array.from(this.#node.data).slice(0, -characters || undefined).join("");
    this.#said = Math.min(this.#said, this.#node.data.length);
  }

  /** Hand whole paragraphs to the screen reader; at the end, the rest. */
  speak(ended) {
    const end = ended ? this.text.length : this.text.lastIndexOf("\n\n");
    if (end <= this.#said) return;
    this.say(this.text.slice(this.#said, end));
    this.#said = end;
  }

  /** What has been there before anybody listened is not read out. */
  skip() {
    this.#said = this.text.length;
  }

  say(text) {
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    this.#spoken.append(paragraph);
    while (this.#spoken.childElementCount > SPOKEN_PARAGRAPHS) this.#spoken.firstElementChild.remove();
  }

  set busy(busy) {
    this.#place.classList.toggle("writing", busy);
    this.#place.setAttribute("aria-busy", String(busy));
  }
}
