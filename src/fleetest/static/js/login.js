// Opens a session with a token that was typed, or with the one-use code behind the # of the address.

import { followTheme } from "./theme.js";

const message = document.getElementById("message");
const token = document.getElementById("token");
const CODE = "#code=";

async function open(credentials) {
  const answer = await fetch("/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(credentials),
  });
  if (answer.ok) {
    const hash = location.hash.startsWith(CODE) ? "" : location.hash;
    if (location.pathname === "/" && hash === location.hash) location.reload();
    else location.replace(`/${hash}`);
    return;
  }
  const problem = await answer.json().catch(() => ({}));
  message.textContent = problem.detail ?? `The coordinator answered ${answer.status}.`;
}

const tryTo = (credentials) => open(credentials).catch((error) => {
  message.textContent = `The coordinator cannot be reached: ${error.message}`;
});

followTheme();
document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  tryTo({ token: token.value.trim() });
});
if (location.hash.startsWith(CODE)) {
  const code = location.hash.slice(CODE.length);
  history.replaceState(null, "", location.pathname);
  tryTo({ code });
} else token.focus();
