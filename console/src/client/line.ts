import { Backoff } from "./backoff.ts";
import { type Observable, Value } from "./observable.ts";
import { Problem } from "./problem.ts";

/** What is used of the browser's `WebSocket` (and of the `ws` package's, under Node 20). */
export interface Socket {
  readonly readyState: number;
  binaryType: string;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}
export type SocketConstructor = new (url: string, protocols?: string | string[]) => Socket;

/** Milliseconds. */
export interface Timing {
  readonly firstMs: number;
  readonly mostMs: number;
  readonly steadyMs: number;
  /** After so long without a word from the server it is asked for one … */
  readonly idleMs: number;
  /** … and has so long to answer. Also how long a connection may take to open. */
  readonly answerMs: number;
}

export const TIMING: Timing = { firstMs: 200, mostMs: 15_000, steadyMs: 10_000, idleMs: 25_000, answerMs: 10_000 };

export interface LineOptions {
  /** The gateway: `http(s)://…` or `ws(s)://…`. */
  readonly url: string;
  /** Fetches a fresh single-use ticket, before each connection; needed where the gateway asks who you are. */
  readonly ticket?: (() => Promise<string>) | undefined;
  readonly WebSocket?: SocketConstructor | undefined;
  readonly timing?: Partial<Timing> | undefined;
  readonly random?: (() => number) | undefined;
  readonly now?: (() => number) | undefined;
}

export type LineState = "connecting" | "replaying" | "live" | "reconnecting" | "closed";

export interface LineStatus {
  /** `replaying`: connected, and still catching up with history. `closed`: for good, by us or because we may not. */
  readonly state: LineState;
  /** Failures in a row. */
  readonly failures: number;
  /** Milliseconds until the next try, when it was planned. */
  readonly retryInMs: number | null;
  /** Why it broke, or why it is closed. */
  readonly error: Problem | null;
}

/** What stands above a line. */
export interface LineUser {
  /** Path and query to open now. */
  path(): string;
  readonly protocol: string | null;
  /** The message that asks for a sign of life; `null` where the server does not answer one. */
  readonly ping: string | null;
  opened(): void;
  /** The frames of one message. */
  frames(frames: readonly unknown[]): void;
  /** The connection is gone; another one will be opened unless the status is `closed`. */
  down(): void;
}

/**
 * Closes after which another try would end the same way. 1013 ("try again later") is none of them: the gateway is only full for the moment.
 * So may be one that refuses the upgrade (429, 503), which a browser shows as 1006.
 */
const FINAL: Readonly<Record<number, string>> = {
  1002: "protocol",
  1003: "protocol",
  1007: "protocol",
  1008: "policy",
  1009: "too_large",
  4403: "forbidden",
};
const UNAUTHENTICATED = 4401;
const OPEN = 1;

/** A WebSocket that is opened again whenever it breaks, until {@link close}. Ends by itself only where it may not or must not go on. */
export class Line {
  readonly status: Observable<LineStatus>;
  readonly #status = new Value<LineStatus>({ state: "connecting", failures: 0, retryInMs: null, error: null });
  readonly #options: LineOptions;
  readonly #user: LineUser;
  readonly #timing: Timing;
  readonly #backoff: Backoff;
  readonly #now: () => number;
  readonly #WebSocket: SocketConstructor;
  /** Rises with every connection: what an older one still says is not heard. */
  #generation = 0;
  #socket: Socket | null = null;
  #retry: ReturnType<typeof setTimeout> | null = null;
  #watch: ReturnType<typeof setInterval> | null = null;
  #heardAt = 0;
  #askedAt: number | null = null;
  #refusals = 0;

  constructor(options: LineOptions, user: LineUser) {
    this.#options = options;
    this.#user = user;
    this.#timing = { ...TIMING, ...options.timing };
    this.#now = options.now ?? (() => performance.now());
    const found = options.WebSocket ?? (globalThis.WebSocket as unknown as SocketConstructor | undefined);
    if (found === undefined) throw new Error("there is no WebSocket here: pass one in the options");
    this.#WebSocket = found;
    this.#backoff = new Backoff({ ...this.#timing, random: options.random ?? Math.random, now: this.#now });
    this.status = this.#status;
  }

  /** Begin. */
  open(): void {
    void this.#connect();
  }

  /** The connection works: the server said so. */
  began(): void {
    this.#refusals = 0;
    this.#backoff.began();
    this.#set("replaying", { failures: 0 });
  }

  /** Everything asked for has been caught up with (or not, again). */
  caughtUp(live: boolean): void {
    const { state } = this.#status.get();
    if (state === "live" || state === "replaying") this.#set(live ? "live" : "replaying", {});
  }

  /** Send, if connected; what matters is said again after a reconnect anyway. */
  send(message: string): void {
    if (this.#socket?.readyState === OPEN) this.#socket.send(message);
  }

  /** Try now instead of after the pause (the network is back, the page is visible again, somebody signed in). */
  retryNow(): void {
    const { state } = this.#status.get();
    if (state === "live" || state === "replaying" || (this.#socket !== null && state !== "closed")) return;
    this.#backoff.reset();
    this.#refusals = 0;
    this.#clear();
    void this.#connect();
  }

  /** Break the connection, and let the pauses decide when to come back. */
  interrupt(error: Problem): void {
    this.#lost(error);
  }

  /** End for good. Safe twice. */
  close(error: Problem | null = null): void {
    this.#clear();
    this.#drop(1000);
    if (this.#status.get().state !== "closed") this.#set("closed", { error, retryInMs: null });
  }

  async #connect(): Promise<void> {
    const generation = ++this.#generation;
    if (this.#status.get().state !== "connecting") this.#set("reconnecting", { retryInMs: null });
    let ticket: string | null = null;
    try {
      ticket = (await this.#options.ticket?.()) ?? null;
    } catch (error) {
      if (generation === this.#generation) this.#ticketRefused(error);
      return;
    }
    if (generation !== this.#generation) return;
    const socket = this.#open();
    this.#socket = socket;
    this.#heardAt = this.#now();
    this.#askedAt = null;
    const mine = () => generation === this.#generation;
    socket.onopen = () => {
      if (!mine()) return;
      this.#heardAt = this.#now();
      if (ticket !== null) socket.send(JSON.stringify({ op: "auth", ticket }));
      this.#user.opened();
    };
    socket.onmessage = (event: { data: unknown }) => {
      if (mine()) this.#heard(event.data);
    };
    socket.onerror = () => {}; // a close follows, and says more
    socket.onclose = (event: { code: number; reason: string }) => {
      if (mine()) this.#closed(event.code, event.reason);
    };
    this.#watch = setInterval(
      () => this.#look(),
      Math.max(1, Math.min(this.#timing.idleMs, this.#timing.answerMs) / 2),
    );
  }

  #open(): Socket {
    const url = this.#options.url.replace(/^http/, "ws").replace(/\/$/, "") + this.#user.path();
    return this.#user.protocol === null ? new this.#WebSocket(url) : new this.#WebSocket(url, this.#user.protocol);
  }

  #heard(data: unknown): void {
    this.#heardAt = this.#now();
    this.#askedAt = null;
    let found: unknown;
    try {
      found = JSON.parse(String(data));
    } catch (error) {
      this.#lost(new Problem(0, { code: "protocol", detail: "the gateway sent something that is no JSON" }, error));
      return;
    }
    this.#user.frames(Array.isArray(found) ? found : [found]);
  }

  /** Is anybody still there? A cut network says nothing at all. */
  #look(): void {
    const now = this.#now();
    const opening = this.#socket?.readyState !== OPEN;
    if (opening || this.#askedAt !== null) {
      if (now - (this.#askedAt ?? this.#heardAt) > this.#timing.answerMs) {
        this.#lost(new Problem(0, { code: "unavailable", detail: "the gateway does not answer" }));
      }
    } else if (this.#user.ping !== null && now - this.#heardAt > this.#timing.idleMs) {
      this.#askedAt = now;
      this.send(this.#user.ping);
    }
  }

  #closed(code: number, reason: string): void {
    const detail =
      reason === "" ? `the connection closed with ${code}` : `the connection closed with ${code}: ${reason}`;
    const final = FINAL[code];
    if (final !== undefined) {
      this.#user.down();
      this.close(new Problem(0, { code: final, detail }));
      return;
    }
    if (code === UNAUTHENTICATED) {
      const error = new Problem(401, { code: "unauthenticated", detail });
      this.#refusals += 1;
      // A ticket or a session may have run out: a fresh ticket is worth one try, not more.
      if (this.#options.ticket === undefined || this.#refusals > 1) {
        this.#user.down();
        this.close(error);
        return;
      }
      this.#lost(error);
      return;
    }
    this.#lost(new Problem(0, { code: "unavailable", detail }));
  }

  #ticketRefused(error: unknown): void {
    const problem = error instanceof Problem ? error : new Problem(0, { detail: "no ticket to be had" }, error);
    if (problem.transient) this.#lost(problem);
    else this.close(problem);
  }

  #lost(error: Problem): void {
    if (this.#status.get().state === "closed") return;
    this.#clear();
    this.#drop(4000);
    const { failures } = this.#status.get();
    const pause = this.#backoff.next(1000 * (error.retryAfterS ?? 0));
    this.#retry = setTimeout(() => void this.#connect(), pause);
    this.#set("reconnecting", { failures: failures + 1, retryInMs: pause, error });
    this.#user.down();
  }

  #drop(code: number): void {
    this.#generation += 1;
    const socket = this.#socket;
    this.#socket = null;
    try {
      socket?.close(code);
    } catch {
      // it never opened
    }
  }

  #clear(): void {
    if (this.#retry !== null) clearTimeout(this.#retry);
    if (this.#watch !== null) clearInterval(this.#watch);
    this.#retry = this.#watch = null;
  }

  #set(state: LineState, changes: Partial<LineStatus>): void {
    const now = this.#status.get();
    const error = state === "live" || state === "replaying" ? null : now.error;
    this.#status.set({ ...now, error, retryInMs: null, ...changes, state });
  }
}
