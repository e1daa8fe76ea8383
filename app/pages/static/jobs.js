// What rq-dashboard lacks here: the way back, the way to a job's run, and a button that stops it.
import { el } from "./dom.js";

const LOOK_SECONDS = 2.5;

const brand = document.querySelector(".navbar-brand");
brand.href = "/";
brand.textContent = "← Heartline";

const id = /^\/jobs\/0\/view\/job\/([0-9a-f]{32})$/.exec(location.pathname)?.[1];
if (id) {
  const stop = el("button", { type: "button", class: "btn btn-outline-danger btn-sm", hidden: "" }, "Stop");
  const said = el("span", { role: "status", class: "stop-said" });
  document.querySelector(".section .row").after(
    el("p", { class: "ours" }, el("a", { href: `/runs/${id}`, class: "btn btn-outline-secondary btn-sm" }, "Its run"), " ", stop, " ", said));
  stop.addEventListener("click", async () => {
    stop.disabled = true;
    const answer = await fetch(`/jobs/${id}/stop`, { method: "POST" }).catch(() => null);
    said.textContent = answer?.ok ? "It is being stopped." : "It could not be stopped. Please try again.";
    stop.disabled = Boolean(answer?.ok);
  });
  const look = async () => {
    const job = await fetch(`/jobs/0/data/job/${id}.json`).then((answer) => answer.json()).catch(() => null);
    if (job) stop.hidden = !["queued", "started"].includes(job.status);
    setTimeout(look, LOOK_SECONDS * 1000);
  };
  look();
}
