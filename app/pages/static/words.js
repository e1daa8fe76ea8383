// The words of this page's language, as the server has sent them with it.
const words = JSON.parse(document.documentElement.dataset.words);

/** The word or sentence `key`, with what belongs into its braces. */
export function word(key, values = {}) {
  return words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
