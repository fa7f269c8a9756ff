// Runs the built module against a gateway, for tests/integration/test_console_client.py: node drive.mjs <folder of index.js> <url> <until>.
// With AURA_API_KEY set it is that key, and takes a ticket for each connection. Follows the log from its beginning to sequence <until>, one JSON object a line on stdout; a line on stdin `output <project> <job>` follows
// a job's output besides.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { WebSocket } from "ws";

const [folder, url, until] = process.argv.slice(2);
const { connect, Http } = await import(pathToFileURL(`${folder}/index.js`).href);
const tell = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const key = process.env.AURA_API_KEY;
const http = new Http({ url, headers: () => (key ? { authorization: `Bearer ${key}` } : {}) });
const stored = await http.post("/prds", {
  title: "From TypeScript",
  tasks: [{ type: "t", role: "Employee", payload: {} }],
});
tell({ submitted: stored.job_ids });
tell({ refused: await http.post(`/jobs/${stored.job_ids[0]}/retry`, {}).catch((problem) => problem.code) });

const ticket = key ? () => http.ticket() : undefined;
const connection = connect({ url, ticket, WebSocket, timing: { firstMs: 1, mostMs: 20 } });
connection.subscribe(
  "aura.>",
  {
    events: (events) => {
      for (const { seq, subject, event } of events) tell({ seq, subject, type: event.type });
      if (events.at(-1).seq >= Number(until)) connection.close();
    },
    live: (seq) => tell({ live: seq }),
    reset: (reset) => tell({ reset }),
    error: (problem) => tell({ error: problem.code }),
  },
  { seq: 1 },
);
connection.subscribe("$JS.>", { events: () => {}, error: (problem) => tell({ bad_subject: problem.code }) });

const input = createInterface({ input: process.stdin });
input.on("line", (line) => {
  const [, project, job] = line.split(" ");
  connection.output(Number(project), job, {
    records: (records) => {
      for (const record of records) tell({ i: record.i, chunk: record.chunk });
    },
    live: () => tell({ output_live: true }),
  });
});
connection.status.subscribe(() => {
  if (connection.status.get().state === "closed") input.close();
});
