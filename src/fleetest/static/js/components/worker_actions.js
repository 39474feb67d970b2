// What an operator can do with a worker, each after a question.

import { path, post } from "../api.js";
import { h } from "../dom.js";
import { live } from "../live.js";
import { confirm, toast } from "./dialog.js";

const ACTIONS = {
  drain: { label: "Drain", title: "Drain this worker?", text: "It finishes what runs and gets nothing new until it is resumed.", done: "drains" },
  resume: { label: "Resume", title: "Resume this worker?", text: "It gets work again.", done: "is resumed" },
  quarantine: { label: "Quarantine", title: "Quarantine this worker?", text: "It gets nothing new until it is released; what runs there finishes.", done: "is quarantined", isDangerous: true, reasonLabel: "Reason" },
  release: { label: "Release", title: "Release this worker?", text: "It gets work again.", done: "is released" },
};

function offered(worker) {
  if (worker.state === "draining") return ["resume"];
  if (worker.state === "quarantined") return [worker.can_release ? "release" : "quarantine"];
  if (worker.state === "probation") return ["release", "quarantine"];
  return ["drain", "quarantine"];
}

export function workerActions(worker, { isShort = false } = {}) {
  if (!live.may("admin")) return h("span", { class: "muted" }, "–");
  const names = isShort ? offered(worker).slice(0, 1) : offered(worker);
  return h("span", { class: "actions-cell" }, names.map((name) => h("button", { type: "button", class: ACTIONS[name].isDangerous ? "danger" : null, "aria-label": `${ACTIONS[name].label} ${worker.worker_id}`, onclick: () => act(worker, name) }, ACTIONS[name].label)));
}

async function act(worker, name) {
  const action = ACTIONS[name];
  const reason = await confirm({ title: action.title, text: `${worker.worker_id}: ${action.text}`, action: action.label, isDangerous: action.isDangerous, reasonLabel: action.reasonLabel });
  if (reason === null) return;
  try {
    await post(`${path("workers", worker.worker_id)}/${name}`, action.reasonLabel ? { reason: reason || "by an operator" } : {});
    toast(`${worker.worker_id} ${action.done}.`);
  } catch (error) {
    toast(error.message, { isBad: true });
  }
}
