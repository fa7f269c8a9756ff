import type { AuraEvent } from "./events.gen.ts";
import { Line, type LineOptions, type LineStatus } from "./line.ts";
import type { Observable } from "./observable.ts";
import { isObject, Problem } from "./problem.ts";
import {
  type ClientOp,
  type From,
  type LogEvent,
  type Note,
  type Position,
  type Reset,
  type Start,
  SUBPROTOCOL,
} from "./protocol.ts";
import {
  type Handlers,
  LogSubscription,
  type OutputHandlers,
  type OutputRecord,
  OutputSubscription,
  type ReplayHandlers,
  Replaying,
} from "./subscription.ts";

export interface ConnectOptions extends LineOptions {
  /** Hears of `error` frames that belong to no subscription. */
  readonly onError?: (problem: Problem) => void;
}

export interface Subscription {
  /** Everything up to there was handed out; `null` before the first connection. */
  readonly position: Position | null;
  /** No handler is called any more. Safe twice. */
  unsubscribe(): void;
}

export interface Playing {
  /** Safe twice. */
  stop(): void;
}

/** Operations in one message. */
const MOST_OPS = 100;

type Any = LogSubscription | OutputSubscription | Replaying;

/** One WebSocket for everything a page follows. It comes back by itself; every subscription goes on where it was. */
export class Connection {
  readonly status: Observable<LineStatus>;
  readonly #line: Line;
  readonly #onError: (problem: Problem) => void;
  readonly #all = new Map<string, Any>();
  #welcomed = false;
  #epoch: string | null = null;
  #seq = 0;
  #ids = 0;

  constructor(options: ConnectOptions) {
    this.#onError = options.onError ?? (() => {});
    this.#line = new Line(options, {
      path: () => "/ws",
      protocol: SUBPROTOCOL,
      ping: JSON.stringify({ op: "ping" } satisfies ClientOp),
      opened: () => {},
      frames: (frames) => this.#frames(frames),
      down: () => this.#down(),
    });
    this.status = this.#line.status;
    this.#line.open();
  }

  /** The newest sequence that this connection has heard of. */
  get seq(): number {
    return this.#seq;
  }

  /** The log's identity; `null` before the first welcome. */
  get epoch(): string | null {
    return this.#epoch;
  }

  /**
   * Follow committed events on a subject (NATS wildcards; `aura.>` is everything you may see) or heartbeats (`health.aura.>`).
   * `{ after: position }` goes on where another subscription was, also one of another page load.
   */
  subscribe<E extends AuraEvent = AuraEvent>(
    subject: string,
    handlers: Handlers<E>,
    from: Start = "now",
  ): Subscription {
    const added = new LogSubscription(this.#id(), subject, handlers as unknown as Handlers, from);
    this.#add(added);
    return {
      get position() {
        return added.position;
      },
      unsubscribe: () => this.#remove(added),
    };
  }

  /** Follow a job's output from its beginning, through all attempts. */
  output(project: number, job: string, handlers: OutputHandlers): Playing {
    const added = new OutputSubscription(this.#id(), project, job, handlers);
    this.#add(added);
    return { stop: () => this.#remove(added) };
  }

  /** Play a window of the log again, `speed` times as fast as it happened. */
  replay(
    subject: string,
    window: { from: Exclude<From, "now">; to?: From; speed?: number },
    handlers: ReplayHandlers,
  ): Playing {
    const added = new Replaying(this.#id(), subject, window.from, window.to ?? "now", window.speed ?? 1, handlers);
    this.#add(added);
    return { stop: () => this.#remove(added) };
  }

  /** Try now instead of after the pause (the network is back, the page is visible again, somebody signed in). */
  retryNow(): void {
    this.#line.retryNow();
  }

  /** End for good. Safe twice. */
  close(): void {
    this.#line.close();
    this.#all.clear();
  }

  #id(): string {
    this.#ids += 1;
    return `s${this.#ids}`;
  }

  #add(added: Any): void {
    this.#all.set(added.id, added);
    if (!this.#welcomed) return;
    this.#say([added.ask()]);
    this.#tellState();
  }

  #remove(gone: Any): void {
    if (!this.#all.delete(gone.id)) return;
    if (this.#welcomed) this.#say([{ op: "unsubscribe", id: gone.id }]);
    this.#tellState();
  }

  #say(ops: readonly ClientOp[]): void {
    for (let start = 0; start < ops.length; start += MOST_OPS) {
      this.#line.send(JSON.stringify(ops.slice(start, start + MOST_OPS)));
    }
  }

  #down(): void {
    this.#welcomed = false;
    for (const one of this.#all.values()) if (!(one instanceof Replaying)) one.down();
  }

  #tellState(): void {
    this.#line.caughtUp([...this.#all.values()].every((one) => one.live));
  }

  // --- what the server says

  #frames(frames: readonly unknown[]): void {
    for (const frame of frames) {
      if (!isObject(frame)) continue;
      if ("op" in frame) {
        this.#flush();
        this.#control(frame);
      } else {
        this.#event(frame);
      }
    }
    this.#flush();
  }

  #event(frame: Record<string, unknown>): void {
    const { seq, subject, event, id } = frame;
    if (typeof subject !== "string" || !isObject(event)) return;
    const tokens = subject.split(".");
    if (typeof seq !== "number") {
      for (const one of this.#all.values()) {
        if (one instanceof OutputSubscription) one.offer(event as unknown as OutputRecord, tokens);
        else if (one instanceof LogSubscription) one.offerNote({ subject, event } satisfies Note, tokens);
      }
      return;
    }
    const found = frame as unknown as LogEvent;
    if (typeof id === "string") {
      const playing = this.#all.get(id);
      if (playing instanceof Replaying) playing.offer(found);
      return;
    }
    if (seq > this.#seq) this.#seq = seq;
    for (const one of this.#all.values()) if (one instanceof LogSubscription) one.offer(found, tokens);
  }

  #flush(): void {
    for (const one of this.#all.values()) call(() => one.flush());
  }

  #control(frame: Record<string, unknown>): void {
    const one = typeof frame.id === "string" ? this.#all.get(frame.id) : undefined;
    const seq = typeof frame.seq === "number" ? frame.seq : 0;
    switch (frame.op) {
      case "welcome":
        this.#begin(String(frame.epoch), seq);
        break;
      case "subscribed":
        one?.subscribed(this.#epoch ?? "", seq);
        break;
      case "live":
        if (one !== undefined) this.#reachedLive(one, seq);
        break;
      case "reset":
        for (const each of frame.id === undefined ? this.#all.values() : one ? [one] : []) {
          this.#reset(each, { epoch: String(frame.epoch), reason: String(frame.reason ?? ""), seq });
        }
        break;
      case "replayed":
        if (one instanceof Replaying && this.#all.delete(one.id)) call(() => one.handlers.done?.());
        break;
      case "error":
        this.#refused(one, frame);
        break;
      default: // pong, unsubscribed, and what a newer gateway may add
        break;
    }
  }

  #begin(epoch: string, seq: number): void {
    this.#welcomed = true;
    this.#epoch = epoch;
    this.#seq = seq;
    this.#line.began();
    const all = [...this.#all.values()];
    for (const one of all) {
      this.#meet(one, epoch, seq);
    }
    this.#say(all.filter((one) => this.#all.has(one.id)).map((one) => one.ask()));
    this.#tellState();
  }

  #meet(one: Any, epoch: string, seq: number): void {
    if (one instanceof OutputSubscription) {
      if (one.welcome(epoch)) call(() => one.handlers.reset?.());
    } else if (one instanceof LogSubscription) {
      const reset = one.welcome(epoch, seq);
      if (reset !== null) call(() => one.handlers.reset?.(reset));
    }
  }

  #reachedLive(one: Any, seq: number): void {
    if (one instanceof LogSubscription) {
      one.reachedLive(seq);
      if (seq > this.#seq) this.#seq = seq;
      call(() => one.handlers.live?.(seq));
    } else if (one instanceof OutputSubscription) {
      one.reachedLive();
      call(() => one.handlers.live?.());
    }
    this.#tellState();
  }

  #reset(one: Any, reset: Reset): void {
    if (one instanceof LogSubscription) one.reset(reset);
    else if (one instanceof OutputSubscription) one.reset(reset.epoch);
    call(() => one.handlers.reset?.(reset));
  }

  #refused(one: Any | undefined, frame: Record<string, unknown>): void {
    const problem = new Problem(0, { ...frame, title: "Refused" });
    if (one === undefined) {
      call(() => this.#onError(problem));
    } else if (problem.code === "unavailable" || problem.code === "overloaded") {
      this.#line.interrupt(problem); // all subscriptions come back after a pause
    } else if (this.#all.delete(one.id)) {
      call(() => one.handlers.error?.(problem));
      this.#tellState();
    }
  }
}

/** Connect to a gateway: `connect({ url: location.origin })`. */
export function connect(options: ConnectOptions): Connection {
  return new Connection(options);
}

/** A handler that throws must not keep the others from hearing; its error is thrown where nobody else is affected. */
function call(handler: () => void): void {
  try {
    handler();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
