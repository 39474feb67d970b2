// A question before anything is done that touches the fleet, and a short word afterwards.

import { h } from "../dom.js";

/** Asks; resolves to null if the answer is no, else to the text of the reason field ("" without one). */
export function confirm({ title, text, action, isDangerous = false, reasonLabel = null }) {
  return new Promise((resolve) => {
    const reason = reasonLabel ? h("input", { name: "reason", maxlength: "200", id: "dialog-reason" }) : null;
    const dialog = h(
      "dialog",
      { "aria-labelledby": "dialog-title" },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "dialog-title" }, title),
        h("p", {}, text),
        reason && h("label", { for: "dialog-reason" }, reasonLabel, reason),
        h(
          "div",
          { class: "actions" },
          h("button", { value: "no", type: "submit", formnovalidate: true }, "Leave it"),
          h("button", { value: "yes", type: "submit", class: isDangerous ? "danger" : "primary" }, action),
        ),
      ),
    );
    dialog.addEventListener("close", () => {
      const isYes = dialog.returnValue === "yes";
      dialog.remove();
      resolve(isYes ? (reason?.value ?? "") : null);
    });
    document.body.append(dialog);
    dialog.returnValue = "no";
    dialog.showModal();
  });
}

let shownToast = null;

/** Says in a corner what became of an action; also to screen readers. */
export function toast(text, { isBad = false } = {}) {
  shownToast?.remove();
  const made = h("div", { class: `toast${isBad ? " bad" : ""}`, role: isBad ? "alert" : "status" }, text);
  shownToast = made;
  document.body.append(made);
  setTimeout(() => made.remove(), isBad ? 9000 : 5000);
}
