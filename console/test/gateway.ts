import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { type WebSocket, WebSocketServer } from "ws";
import { Pattern } from "../src/client/subjects.ts";

type Op = { op: string; id: string; subject: string; from: unknown; ticket?: string; to?: unknown };
type Frame = Record<string, unknown>;

interface Client {
  socket: WebSocket;
  live: Map<string, Pattern>;
  authenticated: boolean;
}

/** A small gateway that speaks aura.v1 over a real WebSocket: a log in memory, and every way to be rude to its clients. */
export class Gateway {
  epoch = "e1";
  readonly log: { seq: number; subject: string; event: Frame }[] = [];
  /** Everything that clients said, by operation. */
  readonly said: Op[] = [];
  /** Accept these tickets only, once each; `null` asks for none. */
  tickets: Set<string> | null = null;
  /** Says nothing any more, like a cut cable. */
  mute = false;
  /** Play so many events of a replay, and say no more. */
  hold: number | null = null;
  /** Close each new connection with this code before the welcome. */
  refuse: number | null = null;
  connections = 0;
  readonly #server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "aura.v1" });
  readonly #clients = new Set<Client>();
  readonly #waiting: { wants: () => boolean; done: () => void }[] = [];

  constructor() {
    this.#server.on("connection", (socket) => this.#accept(socket));
  }

  static async start(): Promise<Gateway> {
    const made = new Gateway();
    if (made.#server.address() === null) await once(made.#server, "listening");
    return made;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** Resolves as soon as something a client does makes `wants` true. */
  until(wants: () => boolean): Promise<void> {
    if (wants()) return Promise.resolve();
    return new Promise((done) => this.#waiting.push({ wants, done }));
  }

  /** Append events, and tell who wants them: all of one call in one message. */
  commit(...subjects: string[]): void {
    const fresh = subjects.map((subject) => {
      const found = { seq: this.log.length + 1, subject, event: { type: subject.split(".").slice(-1)[0] } };
      this.log.push(found);
      return found;
    });
    for (const client of this.#clients) {
      const patterns = [...client.live.values()];
      this.#send(
        client,
        fresh.filter((event) => patterns.some((pattern) => pattern.matches(event.subject.split(".")))),
      );
    }
  }

  /** Send something as it is to everybody. */
  say(...frames: Frame[]): void {
    for (const client of this.#clients) this.#send(client, frames);
  }

  /** Cut every connection without a word. */
  cut(): void {
    for (const client of this.#clients) client.socket.terminate();
    this.#clients.clear();
  }

  close(code: number, reason = ""): void {
    for (const client of this.#clients) client.socket.close(code, reason);
  }

  #accept(socket: WebSocket): void {
    this.connections += 1;
    const client: Client = { socket, live: new Map(), authenticated: this.tickets === null };
    socket.on("message", (data) => {
      for (const op of [JSON.parse(String(data))].flat() as Op[]) this.#do(client, op);
      this.#check();
    });
    socket.on("close", () => this.#clients.delete(client));
    if (this.refuse !== null) socket.close(this.refuse);
    else {
      this.#clients.add(client);
      if (client.authenticated) this.#welcome(client);
    }
    this.#check();
  }

  #welcome(client: Client): void {
    this.#send(client, [{ op: "welcome", epoch: this.epoch, seq: this.log.length }]);
  }

  #do(client: Client, op: Op): void {
    this.said.push(op);
    if (!client.authenticated) {
      client.authenticated = op.op === "auth" && (this.tickets?.delete(op.ticket ?? "") ?? false);
      if (client.authenticated) this.#welcome(client);
      else client.socket.close(4401, "who are you?");
      return;
    }
    switch (op.op) {
      case "ping":
        this.#send(client, [{ op: "pong" }]);
        break;
      case "subscribe":
        this.#subscribe(client, op);
        break;
      case "unsubscribe":
        client.live.delete(op.id);
        this.#send(client, [{ op: "unsubscribed", id: op.id, seq: this.log.length }]);
        break;
      case "replay": {
        const played = this.#after(op.subject, (op.from as { seq: number }).seq - 1);
        this.#send(client, [
          { op: "subscribed", id: op.id, seq: 0, recovered: true },
          ...played.slice(0, this.hold ?? played.length).map((event) => ({ id: op.id, ...event })),
          ...(this.hold === null ? [{ op: "replayed", id: op.id, seq: this.log.length }] : []),
        ]);
        break;
      }
    }
  }

  #subscribe(client: Client, op: Op): void {
    const id = op.id;
    if (op.subject.startsWith("$")) {
      this.#send(client, [{ op: "error", id, code: "invalid_request", detail: "no such subject" }]);
      return;
    }
    const from = op.from as { seq?: number; last?: number; epoch?: string } | "now";
    const head = this.log.length;
    let after = head;
    if (from !== "now")
      after = from.seq === undefined ? Math.max(head - (from.last ?? 0), 0) : Math.max(from.seq - 1, 0);
    const known = from === "now" || from.epoch === undefined || from.epoch === this.epoch;
    const output = op.subject.startsWith("aura.output.");
    if (!output && (after > head || !known)) {
      this.#send(client, [
        { op: "subscribed", id, seq: head, recovered: false },
        { op: "reset", id, epoch: this.epoch, reason: "the cursor cannot be honoured", seq: head },
      ]);
      after = head;
    } else {
      this.#send(client, [{ op: "subscribed", id, seq: output ? 0 : after, recovered: true }]);
    }
    if (!output) this.#send(client, this.#after(op.subject, after));
    client.live.set(id, new Pattern(op.subject));
    this.#send(client, [{ op: "live", id, seq: output ? 0 : head }]);
  }

  #after(subject: string, seq: number): Frame[] {
    const pattern = new Pattern(subject);
    return this.log.filter((event) => event.seq > seq && pattern.matches(event.subject.split(".")));
  }

  #send(client: Client, frames: Frame[]): void {
    if (this.mute || frames.length === 0) return;
    client.socket.send(JSON.stringify(frames.length === 1 ? frames[0] : frames));
  }

  #check(): void {
    for (const one of [...this.#waiting]) {
      if (!one.wants()) continue;
      this.#waiting.splice(this.#waiting.indexOf(one), 1);
      one.done();
    }
  }
}
