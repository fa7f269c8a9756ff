import { once } from "node:events";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Http, isProblem, Problem, statusOfJob } from "../src/client/index.ts";

type Answer = { status: number; body?: unknown; headers?: Record<string, string> } | "hang up";

let server: Server;
let http: Http;
let answers: Answer[];
let asked: { method: string; path: string; headers: IncomingMessage["headers"]; body: string }[];

beforeEach(async () => {
  answers = [];
  asked = [];
  server = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    asked.push({ method: request.method ?? "", path: request.url ?? "", headers: request.headers, body });
    const answer = answers.shift() ?? { status: 500 };
    if (answer === "hang up") {
      request.socket.destroy();
      return;
    }
    response.writeHead(answer.status, answer.headers);
    response.end(answer.body === undefined ? "" : JSON.stringify(answer.body));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  http = make();
});

afterEach(() => {
  server.closeAllConnections();
  server.close();
});

function make(options: Partial<ConstructorParameters<typeof Http>[0]> = {}): Http {
  return new Http({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, random: () => 0, ...options });
}

async function refusal(promise: Promise<unknown>): Promise<Problem> {
  const error = await promise.then(
    () => null,
    (found: unknown) => found,
  );
  if (!(error instanceof Problem)) throw new Error(`no problem: ${String(error)}`);
  return error;
}

test("a lost answer is asked for again with the same key and bytes", async () => {
  answers = [
    "hang up",
    { status: 503, body: { code: "unavailable", retry_after_s: 0 } },
    { status: 200, body: { seq: 7 } },
  ];
  expect(await http.post("/jobs/j/cancel", { reason: "enough" })).toEqual({ seq: 7 });
  const keys = asked.map((request) => request.headers["idempotency-key"]);
  expect(keys[0]).toBeTruthy();
  expect(new Set(keys).size).toBe(1);
  expect(asked.map((request) => request.body)).toEqual(Array(3).fill('{"reason":"enough"}'));
});

test("a refusal is an answer: typed, with everything it says, and not repeated", async () => {
  answers = [
    {
      status: 409,
      body: {
        code: "conflict",
        title: "Conflict",
        detail: "the job is closed",
        trace_id: "abc",
        status_of_job: "COMPLETED",
      },
    },
  ];
  const problem = await refusal(http.post("/jobs/j/cancel"));
  expect(problem).toMatchObject({ status: 409, code: "conflict", title: "Conflict", traceId: "abc", transient: false });
  expect(problem.message).toBe("the job is closed");
  expect(statusOfJob(problem)).toBe("COMPLETED");
  expect(isProblem(problem, "conflict")).toBe(true);
  expect(asked).toHaveLength(1);
});

test("what is no problem document is judged by its status", async () => {
  answers = [{ status: 404 }, { status: 500, body: "<html>" }];
  expect(await refusal(http.get("/nowhere"))).toMatchObject({ status: 404, code: "refused", title: "HTTP 404" });
  expect(await refusal(http.get("/broken"))).toMatchObject({ status: 500, code: "unavailable" });
});

test("tries are bounded, and the last failure is thrown", async () => {
  answers = Array(9).fill({ status: 429, body: { code: "overloaded", retry_after_s: 0 } });
  expect(await refusal(make({ tries: 3 }).get("/jobs"))).toMatchObject({ status: 429, code: "overloaded" });
  expect(asked).toHaveLength(3);
});

test("nobody there", async () => {
  server.close();
  server.closeAllConnections();
  expect(await refusal(http.get("/jobs"))).toMatchObject({ status: 0, code: "unavailable", transient: true });
});

test("queries leave out what is not given and repeat lists", async () => {
  answers = [{ status: 200, body: [] }];
  await http.get("/jobs", { status: ["QUEUED", "FAILED"], q: "a b&c", model: null, role: undefined, limit: 5 });
  expect(asked[0]?.path).toBe("/jobs?status=QUEUED&status=FAILED&q=a+b%26c&limit=5");
});

test("pages follow their Link", async () => {
  answers = [
    { status: 200, body: [1, 2], headers: { link: '</jobs?cursor=x>; rel="next"' } },
    { status: 200, body: [3] },
  ];
  const first = await http.page<number>("/jobs", { limit: 2 });
  const second = await first.next?.();
  expect([first.rows, second?.rows, second?.next]).toEqual([[1, 2], [3], null]);
  expect(asked[1]?.path).toBe("/jobs?cursor=x");
});

test("an aborted request is neither a problem nor repeated", async () => {
  answers = [{ status: 503, body: { code: "unavailable", retry_after_s: 3600 } }];
  const abort = new AbortController();
  const asking = http.get("/jobs", {}, { signal: abort.signal });
  setImmediate(() => abort.abort());
  await expect(asking).rejects.toMatchObject({ name: "AbortError" });
});

test("headers of the caller and a ticket", async () => {
  answers = [{ status: 200, body: { ticket: "t", expires_in_s: 30 } }];
  expect(await make({ headers: () => ({ authorization: "Bearer k" }) }).ticket()).toBe("t");
  expect(asked[0]).toMatchObject({ method: "POST", path: "/auth/tickets" });
  expect(asked[0]?.headers.authorization).toBe("Bearer k");
});
