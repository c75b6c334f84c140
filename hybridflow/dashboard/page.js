// Shows /state, asked for twice a second. Text from the run is only ever set as text.
"use strict";

// The token comes behind the # of the address, stays in this tab, and leaves the address.
const token = location.hash.slice(1) || sessionStorage.getItem("token") || "";
sessionStorage.setItem("token", token);
history.replaceState(null, "", location.pathname);

const MOST_WORKERS = 200;
const element = (id) => document.getElementById(id);

function seconds(value) {
  if (value < 60) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  return whole < 3600
    ? `${Math.floor(whole / 60)} min ${whole % 60} s`
    : `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

function cell(kind, content) {
  const made = document.createElement(kind);
  if (typeof content === "number") {
    made.className = "number";
    made.textContent = content.toLocaleString("en");
  } else if (content instanceof Node) {
    made.append(content);
  } else {
    made.textContent = content;
  }
  return made;
}

function fill(id, titles, rows) {
  const head = document.createElement("tr");
  titles.forEach((title, place) => {
    const made = cell("th", title);
    if (rows.length && typeof rows[0][place] === "number") made.className = "number";
    head.append(made);
  });
  const lines = rows.map((row) => {
    const line = document.createElement("tr");
    line.append(...row.map((content) => cell("td", content)));
    return line;
  });
  element(id).replaceChildren(head, ...lines);
}

function busy(part) {
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.value = part;
  const both = document.createElement("span");
  both.append(bar, ` ${Math.round(100 * part)} %`);
  return both;
}

function standing(run) {
  if (run.began === null) return "no event yet";
  const took = seconds(run.last - run.began);
  if (run.ended) return run.error ? `failed after ${took}: ${run.error}` : `ended well after ${took}`;
  const phases = run.phases.length ? `${run.phases.join(", ")}; ` : "";
  const quiet = seconds(Math.max(0, run.now - run.last));
  return `${phases}runs for ${seconds(run.now - run.began)}, last event ${quiet} ago`;
}

function show(run) {
  const what = run.workflow ? `${run.workflow} on ${run.resource} (${run.engine})` : "no workflow";
  document.title = element("title").textContent = `${run.name}: ${what}`;
  element("status").textContent = standing(run);
  element("status").className = run.error ? "failed" : "";
  element("trouble").hidden = !run.trouble;
  element("trouble").textContent = run.trouble && `Slurm: ${run.trouble}`;
  const values = Object.entries(run.iteration ? run.iteration.values : {});
  element("iteration").textContent = run.iteration
    ? `iteration ${run.iteration.number}: ` + values.map(([name, value]) => `${name} ${value}`).join(", ")
    : "";
  const roles = ["quantum", "classical"];
  fill("tasks", ["role", "running", "on the QPU", "done", "failed"], roles.map((role) => [
    role, run.running[role] || 0, role === "quantum" ? run.on_qpu : "",
    run.done[role] || 0, run.failed[role] || 0,
  ]));
  fill("qpus", ["QPU", "busy", "QPU time", "running", "batches", "failed", "requests", "PUBs", "shots"],
    run.qpus.map((qpu) => [
      qpu.resource, busy(qpu.busy), seconds(qpu.qpu_seconds), qpu.running, qpu.jobs, qpu.failed,
      qpu.requests, qpu.pubs, qpu.shots,
    ]));
  const workers = [...run.workers].sort((a, b) => (b.running > 0) - (a.running > 0));
  fill("workers", ["worker", "role", "done", "failed", "running", "does", "since"],
    workers.slice(0, MOST_WORKERS).map((one) => [
      one.worker, one.role, one.ended, one.failed, one.running, one.task,
      one.running ? seconds(Math.max(0, run.now - one.since)) : "",
    ]));
  const hidden = workers.length - MOST_WORKERS;
  element("more").textContent = hidden > 0 ? `and ${hidden} more` : "";
  element("slurm").hidden = !run.slots.length;
  fill("slots", ["resource", "slots", "held by", "queue", "nodes"], run.slots.map((state) => [
    state.name, state.source ? `${state.used}/${state.slots}` : "not known to Slurm",
    state.holders.map((claim) => `${claim.user} (${claim.job})`).join(", "), state.queue.length,
    Object.entries(state.nodes).map((pair) => pair.join(" ")).join(", "),
  ]));
}

function complain(text) {
  element("trouble").hidden = false;
  element("trouble").textContent = text;
}

async function look() {
  let ended = false;
  try {
    const answer = await fetch("state", { headers: { Authorization: `Bearer ${token}` } });
    if (answer.status === 403) {
      complain("Open the whole address that the command has printed: the token in it is needed.");
    } else {
      const run = await answer.json();
      show(run);
      ended = run.ended;
    }
  } catch (error) {
    // What was seen stays: the dashboard may come back.
    complain("The dashboard does not answer: has it been ended?");
  }
  setTimeout(look, ended ? 5000 : 500);
}

look();
