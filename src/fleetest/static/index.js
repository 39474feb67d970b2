// A plain page: asks every two seconds. Whatever tests and machines say is shown as text, never as markup.
const EVERY_MS = 2000;

async function get(path) {
  const answer = await fetch(path);
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return answer.json();
}

function fill(id, rows, empty) {
  const body = document.getElementById(id);
  const lines = rows.length ? rows : [[empty]];
  body.replaceChildren(...lines.map((cells) => {
    const line = document.createElement("tr");
    for (const cell of cells) {
      const data = document.createElement("td");
      data.textContent = String(cell);
      line.append(data);
    }
    return line;
  }));
}

async function refresh() {
  const state = document.getElementById("state");
  try {
    const [status, runs, workers, alerts] = await Promise.all([
      get("/api/v1/status"), get("/api/v1/runs?limit=20"), get("/api/v1/workers?limit=200"), get("/api/v1/alerts?state=open"),
    ]);
    const { waiting, running } = status.tasks;
    state.textContent = `${status.workers_total} workers, ${status.slots.used} of ${status.slots.total} slots in use, `
      + `${running} tests running, ${waiting} waiting, ${status.finished_per_s.toFixed(1)} finished a second`;
    fill("runs", runs.items.map((run) => [
      run.title || run.run_id, run.outcome || run.state, `${run.states.finished} of ${run.tasks}`, run.counts.passed,
      run.counts.failed + run.counts.error + run.counts.timeout + run.counts.crashed + run.counts.oom,
    ]), "No runs yet: start one with pytest --fleet.");
    fill("workers", workers.items.map((worker) => [
      worker.worker_id, worker.state, `${worker.slots_used} of ${worker.slots}`, worker.waiting,
      worker.running.map((task) => task.task_id).join(", "),
    ]), "No workers yet: start one with fleetest worker.");
    fill("alerts", alerts.items.map((alert) => [alert.worker_id, alert.cause, alert.message]), "No alerts.");
  } catch (error) {
    state.textContent = `The coordinator does not answer; trying again. (${error.message})`;
  }
  setTimeout(refresh, EVERY_MS);
}

refresh();
