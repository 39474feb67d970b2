// By what machines are told apart: by name, or by a capability that machines of the fleet have.

import { getAll } from "../api.js";
import { h } from "../dom.js";

/** A select with `chosen`, which stays even if no machine has it now, and all that the machines have. */
export function capabilityChoice({ label, chosen, onchange }) {
  const choice = h("select", { "aria-label": label, onchange }, [...new Set(["worker", chosen || "worker"])].map((name) => option(name, name === chosen)));
  offer();

  async function offer() {
    const workers = await getAll("/workers").catch(() => []);
    const names = new Set(workers.flatMap((worker) => Object.keys(worker.attributes)));
    const known = new Set([...choice.options].map((each) => each.value));
    choice.append(...[...names].filter((name) => !known.has(name)).sort().map((name) => option(name, false)));
  }

  return choice;
}

const option = (name, selected) => h("option", { value: name, selected }, `by ${name}`);
