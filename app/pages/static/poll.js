// Asking the server again and again, for as long as somebody looks.
import { word } from "./words.js";

/** Call `look` now and every `seconds`, not while the page is hidden; what goes wrong is shown in #problem. */
export function poll(look, seconds) {
  const problem = document.getElementById("problem");
  async function turn() {
    if (!document.hidden) {
      try {
        await look();
        problem.hidden = true;
      } catch (error) {
        problem.textContent = `${error.message} ${word("may_be_old")}`;
        problem.hidden = false;
      }
    }
    setTimeout(turn, seconds * 1000);
  }
  turn();
  document.addEventListener("visibilitychange", () => document.hidden || look().catch(() => {}));
}

/** The JSON at a path of this server. Without a login any more, leads to it. */
export async function getJson(path) {
  let answer;
  try {
    answer = await fetch(path, { headers: { Accept: "application/json" } });
  } catch {
    throw new Error(word("unreachable"));
  }
  if (answer.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error?.message ?? word("server_says", { status: answer.status }));
  return answer.json();
}

/** Keep every element with `data-since` (Unix seconds) at the time that has passed; `now` tells the server's. */
export function keepTime(now, write) {
  const turn = () => {
    for (const place of document.querySelectorAll("[data-since]")) {
      place.textContent = write(now() - Number(place.dataset.since));
    }
  };
  setInterval(turn, 1000);
  return turn;
}
