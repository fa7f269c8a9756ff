// The built-in page: a list of jobs kept up to date by one event stream, and one job's output and timeline.
// State in, DOM out: events change `jobs`, one render per animation frame shows it. Text only ever becomes text nodes.

const SIGNS = { QUEUED: "○", ASSIGNED: "◔", IN_PROGRESS: "●", SUBMITTED: "◆", COMPLETED: "✓", FAILED: "✕", CANCELLED: "⊘" };
const WORDS = { QUEUED: "queued", ASSIGNED: "assigned", IN_PROGRESS: "running", SUBMITTED: "submitted", COMPLETED: "completed", FAILED: "failed", CANCELLED: "cancelled" };
const OPEN = new Set(["QUEUED", "ASSIGNED", "IN_PROGRESS"]);
const SHOWN = 200;
const OUTPUT_NODES = 4000;
const $ = (id) => document.getElementById(id);

const jobs = new Map();
const asked = new Set();
let selected = null;
let chosen = false; // by a person; until then the page shows whichever job is running
let cursor = null;
let filter = "";

const el = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

// ---------------------------------------------------------------- connections

/** A WebSocket that comes back: exponential back-off with jitter; `path()` is asked for anew each time. */
class Feed {
  constructor(path, onMessage, onState = () => {}) {
    Object.assign(this, { path, onMessage, onState, failures: 0, ended: false });
    this.open();
  }
  open() {
    if (this.ended) return;
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${this.path()}`);
    this.socket = socket;
    socket.onopen = () => { this.failures = 0; this.onState("live"); };
    socket.onmessage = (message) => this.onMessage(JSON.parse(message.data));
    socket.onclose = () => {
      if (this.ended) return;
      this.onState("down");
      const pause = Math.min(15000, 300 * 2 ** this.failures++) * (0.5 + Math.random() / 2);
      this.timer = setTimeout(() => this.open(), pause);
    };
  }
  end() {
    this.ended = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }
}

async function call(method, path, body) {
  const headers = { Accept: "application/json" };
  if (method === "POST") Object.assign(headers, { "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID() });
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const decoded = await answer.json();
  if (!answer.ok) throw new Error(`${decoded.detail || decoded.title} (${decoded.trace_id})`);
  return decoded;
}

// ---------------------------------------------------------------- the list

function take(row) {
  const known = jobs.get(row.id);
  if (!known || (row.seq || 0) >= (known.seq || 0)) jobs.set(row.id, { ...known, ...row });
}

function onEvent(event) {
  if (event.type === "reset") {
    jobs.clear();
    asked.clear();
    start();
    if (selected) select(selected); // its numbers may be another log's, too
    return;
  }
  if (typeof event.seq !== "number") return;
  cursor = event.seq;
  setBadge("live");
  if (!event.job_id) return;
  const job = jobs.get(event.job_id) ?? { id: event.job_id, seq: 0, project_id: event.project_id };
  if (event.seq <= job.seq) return;
  if (event.type === "job.created") Object.assign(job, { title: event.title, role: event.role, created_at: event.ts, prd_title: event.prd_title });
  Object.assign(job, { seq: event.seq, status: event.state?.status ?? job.status, assigned_model: event.state?.model ?? null, updated_at: event.ts });
  jobs.set(job.id, job);
  if (!job.created_at && !asked.has(job.id)) {
    asked.add(job.id);
    call("GET", `/jobs/${job.id}`).then((row) => { jobs.set(row.id, { ...row, ...jobs.get(row.id), title: row.title, role: row.role, created_at: row.created_at }); draw(); }, () => {});
  }
  draw();
}

const badge = $("connection");
function setBadge(state) {
  badge.className = `badge ${state}`;
  $("connection-text").textContent = state === "live" ? `live · seq ${cursor ?? 0}` : "reconnecting";
}

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; showRunning(); refreshCounts(); drawList(); drawDetail(); });
}

// The list holds the newest jobs only, so the counts come from the read models: once a second at most, and only after events.
let counts = {};
let countsDue = null;
function refreshCounts() {
  countsDue ??= setTimeout(async () => {
    try {
      const answer = await fetch("/stats");
      if (answer.ok) counts = (await answer.json()).counts;
    } finally {
      countsDue = null;
      drawCounts();
    }
  }, 1000);
}

function drawCounts() {
  $("counts").replaceChildren(...Object.keys(WORDS).filter((status) => counts[status]).map((status) => {
    const item = el("li", status);
    item.append(`${SIGNS[status]} ${WORDS[status]} `, el("b", "", counts[status]));
    return item;
  }));
}

const rows = new Map();
function drawList() {
  const wanted = [...jobs.values()]
    .filter((job) => job.status && (!filter || `${job.title} ${job.role} ${job.assigned_model} ${job.status} ${WORDS[job.status]} ${job.id}`.toLowerCase().includes(filter)))
    .sort((a, b) => (b.created_at ?? "").localeCompare(a.created_at ?? "") || b.id.localeCompare(a.id))
    .slice(0, SHOWN);
  $("empty").hidden = jobs.size > 0;
  const keep = new Set(wanted.map((job) => job.id));
  for (const [id, row] of rows) if (!keep.has(id)) { row.item.remove(); rows.delete(id); }
  const list = $("list");
  wanted.forEach((job, index) => {
    let row = rows.get(job.id);
    if (!row) rows.set(job.id, row = makeRow(job.id));
    if (list.children[index] !== row.item) list.insertBefore(row.item, list.children[index] ?? null);
    fillRow(row, job);
  });
}

function makeRow(id) {
  const item = el("li");
  const button = el("button");
  const [title, status, meta, time] = [el("span", "title"), statusNode("QUEUED"), el("span", "meta"), el("time")];
  button.type = "button";
  button.append(title, status, meta, time);
  button.onclick = () => choose(id);
  item.append(button);
  return { item, button, title, status, meta, time, shown: "" };
}

function fillRow(row, job) {
  const key = `${job.seq}|${job.title}|${job.id === selected}`;
  if (row.shown === key) return;
  row.shown = key;
  row.title.textContent = job.title ?? job.id;
  row.meta.textContent = [job.role, job.assigned_model, job.prd_title].filter(Boolean).join(" · ");
  row.time.textContent = clock(job.updated_at ?? job.created_at);
  row.time.dateTime = job.updated_at ?? job.created_at ?? "";
  const status = statusNode(job.status);
  row.status.replaceWith(status);
  row.status = status;
  row.button.setAttribute("aria-current", String(job.id === selected));
}

function statusNode(status) {
  const node = el("span", `status ${status}`);
  node.append(el("span", "sign", SIGNS[status] ?? "?"), ` ${WORDS[status] ?? status}`);
  return node;
}

const clock = (iso) => (iso ? new Date(iso).toLocaleTimeString() : "");

// ---------------------------------------------------------------- one job

let feed = null;
let seen = { seq: 0, attempts: new Map(), attempt: 0 };
let lines = [];
let outputDue = false;
let following = true;
const output = $("output");

function choose(id) {
  chosen = true;
  history.replaceState(null, "", `#${id}`);
  select(id);
}

/** Until somebody chooses, follow the work: the newest running job, as soon as the one shown has ended. */
function showRunning() {
  if (chosen || OPEN.has(jobs.get(selected)?.status)) return;
  const running = [...jobs.values()].filter((job) => job.status === "IN_PROGRESS").sort((a, b) => b.seq - a.seq)[0];
  const newest = running ?? (selected ? null : [...jobs.values()].sort((a, b) => b.seq - a.seq)[0]);
  if (newest) select(newest.id);
}

function select(id) {
  selected = id;
  feed?.end();
  seen = { seq: 0, attempts: new Map(), attempt: 0 };
  lines = [];
  output.replaceChildren();
  $("timeline").replaceChildren();
  $("progress").hidden = true;
  following = true;
  feed = new Feed(() => `/ws/job/${id}`, onJobMessage);
  draw();
}

function onJobMessage(message) {
  if (typeof message.i === "number") {
    const next = seen.attempts.get(message.attempt) ?? 0;
    if (message.i < next) return;
    seen.attempts.set(message.attempt, message.i + 1);
    onOutput(message);
  } else if (typeof message.seq === "number" && message.seq > seen.seq) {
    seen.seq = message.seq;
    $("timeline").append(timelineNode(message));
    explain();
  }
}

function onOutput(message) {
  if (message.attempt !== seen.attempt) {
    seen.attempt = message.attempt;
    if (message.attempt > 1) lines.push(["attempt", `\n── attempt ${message.attempt} ──\n`]);
  }
  if (message.type === "job.stream") lines.push(["", message.chunk]);
  else if (message.type === "job.log") lines.push([`log ${message.level}`, `${clock(message.ts)} ${message.level} ${message.line}\n`]);
  else if (message.type === "job.progress") {
    $("progress").hidden = false;
    $("progress").firstElementChild.value = message.percent;
    $("progress").lastElementChild.textContent = `${Math.round(message.percent)} % ${message.step}`;
  }
  if (lines.length && !outputDue) {
    outputDue = true;
    requestAnimationFrame(drawOutput);
  }
}

const ESCAPES = /\u001b\[[0-9;?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(\u0007|\u001b\\)|[\u0000-\u0008\u000b\u000c\u000e-\u001f\u202a-\u202e\u2066-\u2069]/g;
function drawOutput() {
  outputDue = false;
  const part = document.createDocumentFragment();
  let plain = "";
  const flush = () => { if (plain) part.append(plain); plain = ""; };
  for (const [className, text] of lines) {
    const safe = text.replace(ESCAPES, "").replaceAll("\r\n", "\n");
    if (className) { flush(); part.append(el("span", className, safe)); } else plain += safe;
  }
  flush();
  lines = [];
  output.append(part);
  while (output.childNodes.length > OUTPUT_NODES) output.firstChild.remove();
  if (following) output.scrollTop = output.scrollHeight;
  $("follow").hidden = following;
}

output.addEventListener("scroll", () => {
  following = output.scrollHeight - output.scrollTop - output.clientHeight < 24;
  $("follow").hidden = following;
});
$("follow").onclick = () => { following = true; output.scrollTop = output.scrollHeight; };

function timelineNode(event) {
  const item = el("li");
  const name = event.type.replace(/^job\./, "").replaceAll("_", " ").replaceAll(".", ": ");
  const facts = [
    event.type === "job.assigned" && `to ${event.assigned_model}`,
    event.worker_id && `worker ${event.worker_id}`,
    event.attempt && `attempt ${event.attempt}`,
    event.stage && `${event.stage}: ${event.status}`,
    event.error_code,
    typeof event.reason === "string" && event.reason,
    event.output && `${event.output.count} records`,
    event.next_run_at && `again at ${clock(event.next_run_at)}`,
  ].filter(Boolean);
  item.append(el("b", "", name), el("span", "", `${clock(event.ts)} · seq ${event.seq}${facts.length ? ` · ${facts.join(", ")}` : ""}`));
  return item;
}

let explaining = 0;
let reasons = "";
async function explain() {
  const turn = ++explaining;
  const id = selected;
  reasons = "";
  if (!["QUEUED", "ASSIGNED"].includes(jobs.get(id)?.status)) return;
  try {
    const found = await call("GET", `/jobs/${id}/explain`);
    if (turn === explaining && id === selected) reasons = (found.reasons ?? []).map((reason) => reason.text).filter(Boolean).join("; ");
  } catch { /* the facts below stand without it */ }
  draw();
}

function drawDetail() {
  const job = jobs.get(selected);
  if (!job) return;
  $("detail-title").textContent = job.title ?? job.id;
  $("detail-status").replaceChildren(statusNode(job.status));
  const facts = [job.role, job.assigned_model && `model ${job.assigned_model}`, `job ${job.id}`, job.created_at && `created ${clock(job.created_at)}`, reasons];
  $("detail-facts").textContent = facts.filter(Boolean).join(" · ");
  $("cancel").hidden = !OPEN.has(job.status);
  $("retry").hidden = !["FAILED", "CANCELLED", "SUBMITTED"].includes(job.status);
}

for (const action of ["cancel", "retry"]) {
  $(action).onclick = async () => {
    try { await call("POST", `/jobs/${selected}/${action}`, { reason: "from the page" }); } catch (error) { $("detail-facts").textContent = error.message; }
  };
}

// ---------------------------------------------------------------- submitting

$("new").onclick = () => { $("submit-error").textContent = ""; $("submit-dialog").showModal(); };
$("submit").onsubmit = async (event) => {
  if (event.submitter?.value !== "send") return;
  event.preventDefault();
  const form = new FormData(event.target);
  try {
    const task = { type: form.get("type"), role: form.get("role"), payload: JSON.parse(form.get("payload") || "null") };
    const answer = await call("POST", "/prds", { title: form.get("title"), tasks: [{ ...task, title: form.get("title") }] });
    $("submit-dialog").close();
    choose(answer.job_ids[0]);
  } catch (error) {
    $("submit-error").textContent = error.message;
  }
};
$("filter").oninput = (event) => { filter = event.target.value.trim().toLowerCase(); draw(); };

// ---------------------------------------------------------------- start

let events = null;
async function start() {
  events?.end();
  let epoch;
  try {
    ({ epoch } = await call("GET", "/version")); // sequences mean something in one log only
    for (const row of await call("GET", "/jobs?limit=200")) take(row);
  } catch {
    setBadge("down");
    setTimeout(start, 1500);
    return;
  }
  cursor = Math.max(0, ...[...jobs.values()].map((job) => job.seq ?? 0));
  events = new Feed(() => `/ws/events?since=${cursor}&epoch=${encodeURIComponent(epoch)}`, onEvent, setBadge);
  draw();
  const wanted = location.hash.slice(1);
  if (!selected && /^[0-9a-f-]{36}$/.test(wanted)) choose(wanted);
}
start();
