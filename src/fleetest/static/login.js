// Opens a session with a token that was typed, or with the one-use code behind the # of the address.
const message = document.getElementById("message");

async function open(credentials) {
  const answer = await fetch("/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(credentials),
  });
  if (answer.ok) {
    location.replace(location.pathname === "/login" ? "/" : location.pathname + location.search);
    return;
  }
  const problem = await answer.json().catch(() => ({}));
  message.textContent = problem.detail || `The coordinator answered ${answer.status}.`;
}

document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  open({ token: document.getElementById("token").value.trim() }).catch((error) => {
    message.textContent = `The coordinator cannot be reached: ${error.message}`;
  });
});

const code = new URLSearchParams(location.hash.slice(1)).get("code");
if (code) {
  history.replaceState(null, "", location.pathname);
  open({ code }).catch((error) => { message.textContent = error.message; });
} else if (location.pathname !== "/login") {
  // Whoever follows a link from another site sends no cookie the first time, although there is one.
  fetch("/api/v1/status").then((answer) => { if (answer.ok) location.reload(); }).catch(() => {});
}
