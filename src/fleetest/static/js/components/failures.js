// Failures of a run, those with alike tracebacks as one group; each shows the evidence of all attempts of its tests.

import { get, path } from "../api.js";
import { h, keyed, renew, replace, setText } from "../dom.js";
import { badge, count } from "../format.js";
import { href } from "../place.js";
import { attemptView } from "./attempt.js";
import { commandLine } from "./panel.js";
import { emptyState } from "./table.js";

const TESTS_SHOWN = 20;

/** Returns { element, show(groups, { isLive }) }. What is open stays as it is while the run goes on. */
export function makeFailures(runId) {
  const list = h("div", {});
  const element = h("div", {}, list);

  function make(group) {
    const number = h("strong", { class: "number" });
    const body = h("div", { class: "body" });
    const details = h("details", { ontoggle: () => details.open && !body.firstChild && fill() }, h("summary", {}, badge(group.example.verdict), " ", number, " ", h("span", { class: "mono" }, group.headline)), body);
    const evidence = h("div", { class: "evidence" });
    const tests = h("ul", { class: "plain" });
    const rest = h("p", { class: "muted" });
    let chosen = group.example_task_id;
    let present = group;

    function fill() {
      replace(body, tests, rest, evidence);
      drawTests();
      drawEvidence();
    }

    function drawTests() {
      keyed(
        tests,
        present.task_ids.slice(0, TESTS_SHOWN),
        (name) => name,
        (name) => h("li", {}, h("button", { type: "button", class: "quiet mono", title: "Show its evidence", onclick: () => choose(name) }, name)),
        (item, name) => item.firstChild.setAttribute("aria-pressed", String(name === chosen)),
      );
      const others = present.count - Math.min(TESTS_SHOWN, present.task_ids.length);
      rest.hidden = others <= 0;
      renew(rest, others > 0 && [h("span", {}, `and ${count(others)} more: `), h("a", { href: href("runs", runId, { status: present.example.verdict }) }, "all with this verdict")]);
    }

    function choose(name) {
      chosen = name;
      drawTests();
      drawEvidence();
    }

    async function drawEvidence() {
      const wanted = chosen;
      const task = await get(path("runs", runId, "tasks", wanted)).catch(() => null);
      if (wanted !== chosen) return;
      const attempts = task?.attempt_list.length ? [...task.attempt_list].reverse() : [present.example];
      const line = task?.reproduce || (wanted === present.example_task_id ? present.reproduce : "");
      replace(
        evidence,
        h("h3", {}, h("a", { class: "mono", href: href("runs", runId, "tasks", wanted) }, wanted)),
        line && [h("div", { class: "muted" }, "To run it alone:"), commandLine(line)],
        attempts.map((attempt) => attemptView(attempt)),
      );
    }

    details.update = (next) => {
      present = next;
      setText(number, next.count === 1 ? "1 test:" : `${count(next.count)} tests alike:`);
      if (body.firstChild) drawTests();
    };
    return details;
  }

  return {
    element,
    show(groups, { isLive }) {
      keyed(list, groups, (group) => group.signature, make, (details, group) => details.update(group));
      if (groups.length) replace(element, list);
      else replace(element, emptyState("No failures", isLive ? "None so far." : "Every test that ran was right."));
    },
  };
}
