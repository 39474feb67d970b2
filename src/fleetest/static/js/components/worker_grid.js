// All workers as cells coloured by state; beyond sixty they shrink to squares, so that a thousand fit a screen.

import { h, keyed, renew, setClass, setText } from "../dom.js";
import { count, tone } from "../format.js";
import { href } from "../place.js";
import { emptyState } from "./table.js";

const DENSE_FROM = 60;
const SIGNS = { good: "", warn: "!", bad: "✕", busy: "▶", neutral: "–" };

export function makeWorkerGrid() {
  const list = h("ul", { class: "worker-grid" });
  const legend = h("div", { class: "legend" });
  const empty = emptyState("No workers yet", "Start one on each machine:", h("code", {}, `fleetest worker --coordinator ${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`));
  const element = h("div", {}, empty, list, legend);
  let wasDense = null;

  function note(worker) {
    if (worker.state !== "healthy") return worker.slots_used ? `${worker.state}, ${worker.slots_used}/${worker.slots}` : worker.state;
    return `${worker.slots_used}/${worker.slots} slots`;
  }

  function update(cell, worker) {
    const link = cell.firstChild;
    const kind = worker.state === "healthy" && !worker.slots_used ? "neutral" : tone(worker.state);
    setClass(link, `worker-cell ${kind}`);
    const text = `${worker.worker_id}: ${worker.state}, ${worker.slots_used} of ${worker.slots} slots in use`;
    if (link.title !== text) link.title = text;
    if (wasDense) {
      if (link.getAttribute("aria-label") !== text) link.setAttribute("aria-label", text);
      setText(link.firstChild, SIGNS[kind]);
    } else {
      setText(link.children[0], worker.worker_id);
      setText(link.children[1], note(worker));
    }
  }

  function make(worker) {
    const link = h("a", { class: "worker-cell", href: href("workers", worker.worker_id) });
    if (wasDense) link.append(h("span", { "aria-hidden": "true" }));
    else link.append(h("span", { class: "cell-name" }), h("span", { class: "cell-note" }));
    return h("li", {}, link);
  }

  return {
    element,
    show(workers) {
      const isDense = workers.length > DENSE_FROM;
      if (isDense !== wasDense) {
        wasDense = isDense;
        list.keyedChildren = new Map();
        list.replaceChildren();
        setClass(list, `worker-grid${isDense ? " dense" : ""}`);
      }
      workers.sort((one, other) => (one.worker_id < other.worker_id ? -1 : 1));
      keyed(list, workers, (worker) => worker.worker_id, make, update);
      empty.hidden = workers.length > 0;
      const states = new Map();
      for (const worker of workers) {
        const state = worker.state === "healthy" && !worker.slots_used ? "idle" : worker.state === "healthy" ? "working" : worker.state;
        states.set(state, (states.get(state) ?? 0) + 1);
      }
      const kinds = { idle: "neutral", working: "good" };
      renew(legend, [...states].map(([state, number]) => h("span", { class: `key ${kinds[state] ?? tone(state)}` }, h("span", {}, `${count(number)} ${state}`))));
    },
  };
}
