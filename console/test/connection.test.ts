import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import {
  type Connection,
  type ConnectOptions,
  connect,
  type LineState,
  type LogEvent,
  Problem,
  type Reset,
  type SocketConstructor,
  type Timing,
} from "../src/client/index.ts";
import { Gateway } from "./gateway.ts";

const JOB = "aura.job.1.j.created";
const MODEL = "aura.model.m.online";
const FAST: Partial<Timing> = { firstMs: 1, mostMs: 5, steadyMs: 60_000, idleMs: 60_000, answerMs: 60_000 };

let gateway: Gateway;
let connections: Connection[] = [];

beforeEach(async () => {
  gateway = await Gateway.start();
});

afterEach(async () => {
  for (const one of connections) one.close();
  connections = [];
  await gateway.stop();
});

function open(options: Partial<ConnectOptions> = {}): Connection {
  const made = connect({
    url: gateway.url,
    WebSocket: WebSocket as unknown as SocketConstructor,
    timing: FAST,
    ...options,
  });
  connections.push(made);
  return made;
}

/** What a subscription heard, and a way to wait for more of it. */
class Heard {
  readonly seqs: number[] = [];
  readonly batches: number[] = [];
  readonly resets: Reset[] = [];
  readonly errors: Problem[] = [];
  readonly notes: string[] = [];
  lives = 0;
  #waiting: (() => void)[] = [];

  readonly handlers = {
    events: (events: readonly LogEvent[]) => {
      this.seqs.push(...events.map((event) => event.seq));
      this.batches.push(events.length);
      this.#wake();
    },
    notes: (notes: readonly { subject: string }[]) => {
      this.notes.push(...notes.map((note) => note.subject));
      this.#wake();
    },
    reset: (reset: Reset) => {
      this.resets.push(reset);
      this.#wake();
    },
    live: () => {
      this.lives += 1;
      this.#wake();
    },
    error: (problem: Problem) => {
      this.errors.push(problem);
      this.#wake();
    },
  };

  async until(wants: (heard: this) => boolean): Promise<void> {
    while (!wants(this)) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }
}

function state(connection: Connection, wanted: LineState): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if (connection.status.get().state !== wanted) return;
      stop();
      resolve();
    };
    const stop = connection.status.subscribe(look);
    look();
  });
}

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

describe("following", () => {
  test("history first, then live, each event once and in order", async () => {
    gateway.commit(JOB, MODEL, JOB);
    const heard = new Heard();
    open().subscribe("aura.>", heard.handlers, { seq: 1 });
    await heard.until(() => heard.lives === 1);
    gateway.commit(JOB);
    await heard.until(() => heard.seqs.length === 4);
    expect(heard.seqs).toEqual([1, 2, 3, 4]);
  });

  test("events of one message come as one batch", async () => {
    const heard = new Heard();
    open().subscribe("aura.>", heard.handlers);
    await heard.until(() => heard.lives === 1);
    gateway.commit(JOB, JOB, JOB);
    await heard.until(() => heard.seqs.length === 3);
    expect(heard.batches).toEqual([3]);
  });

  test("overlapping subscriptions each get what they ask for, whatever the others had before", async () => {
    gateway.commit(JOB, MODEL, JOB);
    const [all, jobs, late] = [new Heard(), new Heard(), new Heard()];
    const connection = open();
    connection.subscribe("aura.>", all.handlers);
    connection.subscribe("aura.job.>", jobs.handlers, { last: 3 });
    await jobs.until(() => jobs.lives === 1);
    gateway.commit(JOB, MODEL);
    await all.until(() => all.seqs.length === 2);
    connection.subscribe("aura.*.*.*.created", late.handlers, { seq: 1 });
    await late.until(() => late.lives === 1);
    gateway.commit(JOB);
    await late.until(() => late.seqs.includes(6));
    expect(all.seqs).toEqual([4, 5, 6]);
    expect(jobs.seqs).toEqual([1, 3, 4, 6]);
    expect(late.seqs).toEqual([1, 3, 4, 6]);
  });

  test("now, asked for later, is the server's now and not the connection's first", async () => {
    const [models, all] = [new Heard(), new Heard()];
    const connection = open();
    connection.subscribe("aura.model.>", models.handlers);
    await models.until(() => models.lives === 1);
    gateway.commit(...Array.from({ length: 50 }, () => JOB));
    connection.subscribe("aura.>", all.handlers);
    await all.until(() => all.lives === 1);
    gateway.commit(JOB);
    await all.until(() => all.seqs.length > 0);
    expect(all.seqs).toEqual([51]);
  });

  test("after unsubscribe nothing is heard", async () => {
    const [gone, stays] = [new Heard(), new Heard()];
    const connection = open();
    const subscription = connection.subscribe("aura.>", gone.handlers);
    connection.subscribe("aura.>", stays.handlers);
    await stays.until(() => stays.lives === 1);
    subscription.unsubscribe();
    subscription.unsubscribe();
    gateway.commit(JOB);
    await stays.until(() => stays.seqs.length === 1);
    expect(gone.seqs).toEqual([]);
    connection.subscribe("aura.model.>", new Heard().handlers);
    await gateway.until(() => gateway.said.at(-1)?.subject === "aura.model.>");
    expect(gateway.said.filter((op) => op.op === "unsubscribe")).toHaveLength(1);
  });

  test("heartbeats are notes, and asked for live only", async () => {
    const heard = new Heard();
    open().subscribe("health.aura.>", heard.handlers);
    await heard.until(() => heard.lives === 1);
    gateway.say({ subject: "health.aura.m.w", event: { type: "model.heartbeat" } });
    await heard.until(() => heard.notes.length === 1);
    gateway.cut();
    await heard.until(() => heard.lives === 2);
    expect(gateway.said.filter((op) => op.op === "subscribe").map((op) => op.from)).toEqual(["now", "now"]);
  });

  test("a refused subscription ends alone", async () => {
    const [bad, good] = [new Heard(), new Heard()];
    const connection = open();
    connection.subscribe("$JS.>", bad.handlers);
    connection.subscribe("aura.>", good.handlers);
    await bad.until(() => bad.errors.length === 1);
    await good.until(() => good.lives === 1);
    expect(bad.errors[0]).toBeInstanceOf(Problem);
    expect(bad.errors[0]?.code).toBe("invalid_request");
    expect(connection.status.get().state).toBe("live");
  });
});

describe("coming back", () => {
  test("through many cuts: no gap, no duplicate", async () => {
    const heard = new Heard();
    const connection = open();
    connection.subscribe("aura.>", heard.handlers, { seq: 1 });
    for (let round = 0; round < 20; round += 1) {
      gateway.commit(JOB, MODEL, JOB);
      if (round % 3 !== 0) gateway.cut(); // with events on their way
      if (round % 2 === 0) await heard.until(() => heard.seqs.length === 3 * (round + 1));
    }
    await heard.until(() => heard.seqs.length === 60);
    expect(heard.seqs).toEqual(range(1, 60));
    expect(gateway.connections).toBeGreaterThan(6);
  });

  test("all subscriptions go on where each was, in one message", async () => {
    gateway.commit(JOB, MODEL, MODEL);
    const [jobs, models] = [new Heard(), new Heard()];
    const connection = open();
    connection.subscribe("aura.job.>", jobs.handlers, { seq: 1 });
    connection.subscribe("aura.model.>", models.handlers, { seq: 1 });
    await models.until(() => models.lives === 1 && jobs.lives === 1);
    gateway.cut();
    gateway.commit(JOB, MODEL);
    await models.until(() => models.lives === 2 && jobs.lives === 2);
    expect(jobs.seqs).toEqual([1, 4]);
    expect(models.seqs).toEqual([2, 3, 5]);
    const asked = gateway.said.filter((op) => op.op === "subscribe").slice(-2);
    expect(asked.map((op) => op.from)).toEqual([{ seq: 4 }, { seq: 4 }]);
  });

  test("from now on is fixed by the first welcome", async () => {
    gateway.commit(JOB);
    gateway.mute = true;
    const heard = new Heard();
    open().subscribe("aura.>", heard.handlers);
    await gateway.until(() => gateway.connections === 1);
    gateway.say({ op: "welcome", epoch: "e1", seq: 1 });
    gateway.mute = false;
    gateway.say({ op: "welcome", epoch: "e1", seq: 1 });
    await gateway.until(() => gateway.said.length > 0);
    gateway.cut();
    gateway.commit(JOB);
    await heard.until(() => heard.seqs.length === 1);
    expect(heard.seqs).toEqual([2]);
  });

  test("another log is a reset, never a silent hole", async () => {
    gateway.commit(JOB, JOB);
    const heard = new Heard();
    const connection = open();
    const subscription = connection.subscribe("aura.>", heard.handlers, { seq: 1 });
    await heard.until(() => heard.lives === 1);
    gateway.epoch = "e2";
    gateway.log.length = 1;
    gateway.cut();
    await heard.until(() => heard.lives === 2);
    gateway.commit(JOB);
    await heard.until(() => heard.seqs.length === 3);
    expect(heard.resets).toEqual([{ epoch: "e2", reason: "the log has another epoch", seq: 1 }]);
    expect(heard.seqs).toEqual([1, 2, 2]);
    expect(subscription.position).toEqual({ epoch: "e2", seq: 2 });
  });

  test("a position is kept over page loads, and a position of another log is a reset", async () => {
    gateway.commit(JOB, JOB, JOB);
    const [again, foreign] = [new Heard(), new Heard()];
    const connection = open();
    connection.subscribe("aura.>", again.handlers, { after: { epoch: "e1", seq: 2 } });
    await again.until(() => again.lives === 1);
    connection.subscribe("aura.>", foreign.handlers, { after: { epoch: "e0", seq: 2 } });
    await foreign.until(() => foreign.lives === 1);
    expect(again.seqs).toEqual([3]);
    expect(again.resets).toEqual([]);
    expect(foreign.seqs).toEqual([]);
    expect(foreign.resets).toHaveLength(1);
  });

  test("the status tells connecting, replaying, live, reconnecting, live, closed", async () => {
    const connection = open();
    const seen: LineState[] = [connection.status.get().state];
    connection.status.subscribe(() => {
      const { state } = connection.status.get();
      if (state !== seen.at(-1)) seen.push(state);
    });
    connection.subscribe("aura.>", new Heard().handlers);
    await state(connection, "live");
    gateway.cut();
    await state(connection, "reconnecting");
    expect(connection.status.get().error?.code).toBe("unavailable");
    await state(connection, "live");
    expect(connection.status.get()).toMatchObject({ failures: 0, error: null, retryInMs: null });
    connection.close();
    expect(seen).toEqual(["connecting", "replaying", "live", "reconnecting", "replaying", "live", "closed"]);
  });

  test("pauses are drawn from a growing range while a gateway drops everybody", async () => {
    gateway.refuse = 1001;
    const connection = open({ random: () => 1, timing: { ...FAST, firstMs: 1, mostMs: 8 } });
    const pauses: number[] = [];
    connection.status.subscribe(() => {
      const { retryInMs } = connection.status.get();
      if (retryInMs !== null) pauses.push(retryInMs);
    });
    await gateway.until(() => gateway.connections === 6);
    expect(pauses.slice(0, 5)).toEqual([1, 2, 4, 8, 8]);
  });

  test("a gateway that falls silent is left after a ping without an answer", async () => {
    const heard = new Heard();
    const connection = open({ timing: { ...FAST, idleMs: 20, answerMs: 20 } });
    connection.subscribe("aura.>", heard.handlers, { seq: 1 });
    await heard.until(() => heard.lives === 1);
    gateway.mute = true;
    await gateway.until(() => gateway.said.some((op) => op.op === "ping"));
    await state(connection, "reconnecting");
    gateway.mute = false;
    gateway.commit(JOB);
    await heard.until(() => heard.seqs.length === 1);
    expect(heard.seqs).toEqual([1]);
  });

  test("a ping that is answered keeps the connection", async () => {
    const connection = open({ timing: { ...FAST, idleMs: 5, answerMs: 2_000 } });
    connection.subscribe("aura.>", new Heard().handlers);
    await gateway.until(() => gateway.said.filter((op) => op.op === "ping").length === 3);
    expect(gateway.connections).toBe(1);
  });

  test("a gateway that is full for the moment (1013) is come back to", async () => {
    gateway.refuse = 1013;
    const connection = open();
    await gateway.until(() => gateway.connections === 4);
    expect(connection.status.get().state).toBe("reconnecting");
    gateway.refuse = null;
    await state(connection, "live");
  });

  test("so is one that refuses the upgrade", async () => {
    let refused = 0;
    const front = createServer().on("upgrade", (_request, socket) => {
      refused += 1;
      socket.end(`HTTP/1.1 ${refused % 2 ? "429 Too Many Requests" : "503 Service Unavailable"}\r\n\r\n`);
    });
    await new Promise<void>((listening) => front.listen(0, "127.0.0.1", listening));
    const connection = open({ url: `http://127.0.0.1:${(front.address() as AddressInfo).port}` });
    await new Promise<void>((done) => connection.status.subscribe(() => refused >= 4 && done()));
    expect(connection.status.get().state).toBe("reconnecting");
    connection.close();
    await new Promise((closed) => front.close(closed));
  });

  test("retryNow does not wait for the pause", async () => {
    gateway.refuse = 1001;
    const connection = open({ timing: { ...FAST, firstMs: 3_600_000, mostMs: 3_600_000 }, random: () => 1 });
    await state(connection, "reconnecting");
    gateway.refuse = null;
    connection.retryNow();
    await state(connection, "live");
    expect(gateway.connections).toBe(2);
  });
});

describe("who are you", () => {
  test("a fresh ticket is the first message of every connection", async () => {
    gateway.tickets = new Set(["t1", "t2"]);
    let made = 0;
    const heard = new Heard();
    const connection = open({ ticket: async () => `t${++made}` });
    connection.subscribe("aura.>", heard.handlers);
    await heard.until(() => heard.lives === 1);
    gateway.cut();
    await heard.until(() => heard.lives === 2);
    expect(gateway.said.filter((op) => op.op === "auth").map((op) => op.ticket)).toEqual(["t1", "t2"]);
    expect(gateway.said[0]?.op).toBe("auth");
  });

  test("a session that ran out is given one fresh ticket", async () => {
    gateway.tickets = new Set(["t1", "t2"]);
    let made = 0;
    const heard = new Heard();
    const connection = open({ ticket: async () => `t${++made}` });
    connection.subscribe("aura.>", heard.handlers);
    await heard.until(() => heard.lives === 1);
    gateway.close(4401, "expired");
    await heard.until(() => heard.lives === 2);
    expect(connection.status.get().state).toBe("live");
  });

  test("a ticket that is refused twice closes for good, until somebody signs in", async () => {
    gateway.tickets = new Set();
    let ticket = "wrong";
    const connection = open({ ticket: async () => ticket });
    await state(connection, "closed");
    expect(connection.status.get().error?.code).toBe("unauthenticated");
    expect(gateway.connections).toBe(2);
    ticket = "right";
    gateway.tickets.add(ticket);
    connection.retryNow();
    await state(connection, "live");
  });

  test("no ticket to be had: a refusal closes, an outage is waited for", async () => {
    let tries = 0;
    const connection = open({
      ticket: async () => {
        tries += 1;
        throw new Problem(tries < 3 ? 503 : 401, tries < 3 ? {} : { code: "unauthenticated" });
      },
    });
    await state(connection, "closed");
    expect(tries).toBe(3);
    expect(gateway.connections).toBe(0);
  });

  test.each([
    [4403, "forbidden"],
    [1008, "policy"],
    [4401, "unauthenticated"],
  ])("%i is final", async (code, expected) => {
    gateway.refuse = code;
    const connection = open();
    await state(connection, "closed");
    expect(connection.status.get().error?.code).toBe(expected);
    expect(gateway.connections).toBe(1);
  });
});

describe("output and replay", () => {
  const subject = "aura.output.1.j.1.stream";
  const record = (attempt: number, i: number, cursor: number) => ({
    subject,
    event: {
      type: "job.stream",
      job_id: "j",
      project_id: 1,
      attempt,
      i,
      cursor,
      chunk: `${attempt}.${i}`,
      final: false,
    },
  });

  test("records come once, also those that a reconnect repeats", async () => {
    const got: string[] = [];
    let lives = 0;
    let wake = () => {};
    const until = async (wants: () => boolean) => {
      while (!wants()) await new Promise<void>((resolve) => (wake = resolve));
    };
    const connection = open();
    connection.output(1, "j", {
      records: (records) => {
        for (const one of records) if (one.type === "job.stream") got.push(one.chunk);
        wake();
      },
      live: () => {
        lives += 1;
        wake();
      },
    });
    await until(() => lives === 1);
    gateway.say(record(1, 0, 7), record(1, 1, 7), record(1, 2, 9));
    await until(() => got.length === 3);
    gateway.cut();
    await until(() => lives === 2);
    gateway.say(record(1, 2, 9), record(1, 3, 9), record(2, 0, 10));
    await until(() => got.length === 5);
    expect(got).toEqual(["1.0", "1.1", "1.2", "1.3", "2.0"]);
    expect(gateway.said.filter((op) => op.op === "subscribe").map((op) => op.from)).toEqual([
      { seq: 0 },
      { seq: 9, epoch: "e1" },
    ]);
  });

  test("output of another log is a reset, and is told from its start, also what has lower numbers", async () => {
    const got: string[] = [];
    let [lives, resets] = [0, 0];
    let wake = () => {};
    const until = async (wants: () => boolean) => {
      while (!wants()) await new Promise<void>((resolve) => (wake = resolve));
    };
    const connection = open();
    connection.output(1, "j", {
      records: (records) => {
        for (const one of records) if (one.type === "job.stream") got.push(`${one.cursor}:${one.chunk}`);
        wake();
      },
      reset: () => {
        resets += 1;
        got.length = 0;
      },
      live: () => {
        lives += 1;
        wake();
      },
    });
    await until(() => lives === 1);
    gateway.say(record(1, 0, 70), record(1, 1, 71));
    await until(() => got.length === 2);
    gateway.epoch = "e2"; // an older backup, accepted as a new log
    gateway.cut();
    await until(() => lives === 2);
    gateway.say(record(1, 0, 7), record(1, 1, 8));
    await until(() => got.length === 2);
    expect(got).toEqual(["7:1.0", "8:1.1"]);
    expect(resets).toBe(1);
    gateway.cut();
    await until(() => lives === 3);
    expect(resets).toBe(1);
    expect(gateway.said.filter((op) => op.op === "subscribe").map((op) => op.from)).toEqual([
      { seq: 0 },
      { seq: 0 },
      { seq: 8, epoch: "e2" },
    ]);
  });

  test("a replay that was cut goes on in its log only", async () => {
    gateway.hold = 1;
    gateway.commit(JOB, JOB);
    const got: number[] = [];
    const connection = open();
    await new Promise<void>((one) => {
      const events = (all: readonly LogEvent[]) => {
        got.push(...all.map((event) => event.seq));
        one();
      };
      connection.replay("aura.job.>", { from: { seq: 1 } }, { events });
    });
    gateway.cut();
    await gateway.until(() => gateway.said.filter((op) => op.op === "replay").length === 2);
    expect(gateway.said.at(-1)?.from).toEqual({ seq: 2, epoch: "e1" });
    expect(got).toEqual([1]);
  });

  test("a replay is heard by nobody else, and ends", async () => {
    gateway.commit(JOB, MODEL, JOB);
    const heard = new Heard();
    const connection = open();
    connection.subscribe("aura.>", heard.handlers);
    await heard.until(() => heard.lives === 1);
    const got: number[] = [];
    await new Promise<void>((done) => {
      const events = (all: readonly LogEvent[]) => void got.push(...all.map((event) => event.seq));
      connection.replay("aura.job.>", { from: { seq: 1 }, speed: 10 }, { events, done });
    });
    expect(got).toEqual([1, 3]);
    expect(heard.seqs).toEqual([]);
  });
});
