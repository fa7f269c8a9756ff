import type { AuraEvent } from "./events.gen.ts";
import type { Problem } from "./problem.ts";
import type { ClientOp, From, LogEvent, Note, Position, Reset, Start } from "./protocol.ts";
import { Pattern } from "./subjects.ts";

/** What a subscription tells. Handlers are called in the order of the log, and never after `unsubscribe` returned. */
export interface Handlers<E extends AuraEvent = AuraEvent> {
  /** The events of one message: usually one, many in a burst. Each comes once. */
  events(events: readonly LogEvent<E>[]): void;
  /** Heartbeats, on `health.aura.>`. */
  notes?(notes: readonly Note[]): void;
  /** Never a silent hole: what lies between is unknown. */
  reset?(reset: Reset): void;
  /** Caught up: what comes now happens now. Also after every reconnect. */
  live?(seq: number): void;
  /** Refused: the subscription has ended. */
  error?(problem: Problem): void;
}

/** One subscription's place in the log, through any number of connections. Pure: no I/O, no clock. */
export class LogSubscription {
  readonly id: string;
  readonly handlers: Handlers;
  readonly #subject: string;
  readonly #pattern: Pattern;
  readonly #liveOnly: boolean;
  readonly #from: From;
  #epoch: string | null;
  #seq: number | null = null;
  /** Whether the server knows it on this connection; before that, nothing is its. */
  #active = false;
  live = false;
  #events: LogEvent[] = [];
  #notes: Note[] = [];

  constructor(id: string, subject: string, handlers: Handlers, start: Start) {
    this.id = id;
    this.#subject = subject;
    this.handlers = handlers;
    this.#from = typeof start === "object" && "after" in start ? next(start.after) : start;
    this.#epoch = typeof this.#from === "object" && "epoch" in this.#from ? (this.#from.epoch ?? null) : null;
    this.#pattern = new Pattern(subject);
    this.#liveOnly = subject.startsWith("health.");
  }

  /** Where to go on another day. */
  get position(): Position | null {
    return this.#epoch === null || this.#seq === null ? null : { epoch: this.#epoch, seq: this.#seq };
  }

  /** A connection began on a log that ends at `seq`. */
  welcome(epoch: string, seq: number): Reset | null {
    const known = this.#epoch;
    this.#epoch = epoch;
    if (this.#liveOnly) return null;
    if (known !== null && known !== epoch) {
      this.#seq = seq;
      return { epoch, reason: "the log has another epoch", seq };
    }
    // "Now" is fixed by the first welcome: what is committed while a first connection breaks is not missed.
    if (this.#seq === null && this.#from === "now") this.#seq = seq;
    return null;
  }

  ask(): ClientOp {
    return { op: "subscribe", id: this.id, subject: this.#subject, from: this.#ask() };
  }

  #ask(): From {
    if (this.#liveOnly) return "now";
    return this.#seq === null ? this.#from : { seq: this.#seq + 1 };
  }

  /** The server takes it, and begins after `seq`. */
  subscribed(epoch: string, seq: number): void {
    this.#active = true;
    this.#epoch = epoch;
    if (!this.#liveOnly) this.#seq ??= seq;
  }

  reset(reset: Reset): void {
    this.#epoch = reset.epoch;
    this.#seq = reset.seq;
  }

  reachedLive(seq: number): void {
    this.live = true;
    if (!this.#liveOnly && (this.#seq === null || seq > this.#seq)) this.#seq = seq;
  }

  down(): void {
    this.#active = false;
    this.live = false;
  }

  /** An event that names no subscription: it is ours when it matches and is ahead of us. */
  offer(event: LogEvent, subject: readonly string[]): void {
    if (!this.#active || event.seq <= (this.#seq ?? 0) || !this.#pattern.matches(subject)) return;
    this.#seq = event.seq;
    this.#events.push(event);
  }

  offerNote(note: Note, subject: readonly string[]): void {
    if (this.#active && this.#pattern.matches(subject)) this.#notes.push(note);
  }

  /** Hand out what was collected of a message. */
  flush(): void {
    if (this.#events.length > 0) {
      const events = this.#events;
      this.#events = [];
      this.handlers.events(events);
    }
    if (this.#notes.length > 0) {
      const notes = this.#notes;
      this.#notes = [];
      this.handlers.notes?.(notes);
    }
  }
}

function next(position: Position): From {
  return { seq: position.seq + 1, epoch: position.epoch };
}

/** A record of a job's output, as the worker wrote it. `i` counts an attempt's records of all kinds from 0. */
export type OutputRecord = {
  readonly job_id: string;
  readonly project_id: number;
  readonly attempt: number;
  readonly i: number;
  readonly cursor: number;
  readonly ts: string;
} & (
  | { readonly type: "job.stream"; readonly chunk: string; readonly final: boolean }
  | { readonly type: "job.log"; readonly level: string; readonly line: string }
  | {
      readonly type: "job.progress";
      readonly percent: number;
      readonly step?: string | null;
      readonly agent?: string;
      readonly data?: Readonly<Record<string, unknown>>;
    }
);

export interface OutputHandlers {
  /** The records of one message, in the order of `i` per attempt, each once. */
  records(records: readonly OutputRecord[]): void;
  /** What was handed out before is not what the server has: begin again with what comes now. */
  reset?(): void;
  /** Everything written so far was handed out. */
  live?(): void;
  error?(problem: Problem): void;
}

/**
 * The output of one job. Its sequence is `cursor`, which has nothing to do with the log's; what is repeated is dropped by `i`. Both belong
 * to one log: another epoch begins both anew, with a reset. Pure.
 */
export class OutputSubscription {
  readonly id: string;
  readonly handlers: OutputHandlers;
  readonly #subject: string;
  readonly #tokens: readonly string[];
  #epoch: string | null = null;
  #cursor = 0;
  readonly #nextI = new Map<number, number>();
  #active = false;
  live = false;
  #records: OutputRecord[] = [];

  constructor(id: string, project: number, job: string, handlers: OutputHandlers) {
    this.id = id;
    this.handlers = handlers;
    this.#subject = `aura.output.${project}.${job}.>`;
    this.#tokens = this.#subject.split(".").slice(0, 4);
  }

  /** A connection began on a log: whether what was handed out is another's. */
  welcome(epoch: string): boolean {
    const told = this.#nextI.size > 0;
    const other = this.#epoch !== null && this.#epoch !== epoch;
    this.#epoch = epoch;
    if (other) this.#begin();
    return other && told;
  }

  ask(): ClientOp {
    const seq = this.#cursor;
    const from = seq > 0 && this.#epoch !== null ? { seq, epoch: this.#epoch } : { seq };
    return { op: "subscribe", id: this.id, subject: this.#subject, from };
  }

  /** `epoch` is that of the connection, which an output asked for later has not heard in a welcome. */
  subscribed(epoch: string): void {
    this.#active = true;
    this.#epoch = epoch;
  }

  reset(epoch: string): void {
    this.#epoch = epoch;
    this.#begin();
  }

  #begin(): void {
    this.#cursor = 0;
    this.#nextI.clear();
    this.#records = [];
  }

  reachedLive(): void {
    this.live = true;
  }

  down(): void {
    this.#active = false;
    this.live = false;
  }

  offer(record: OutputRecord, subject: readonly string[]): void {
    if (!this.#active || !this.#tokens.every((token, index) => token === subject[index])) return;
    if (record.i < (this.#nextI.get(record.attempt) ?? 0)) return;
    this.#nextI.set(record.attempt, record.i + 1);
    this.#cursor = Math.max(this.#cursor, record.cursor);
    this.#records.push(record);
  }

  flush(): void {
    if (this.#records.length === 0) return;
    const records = this.#records;
    this.#records = [];
    this.handlers.records(records);
  }
}

export interface ReplayHandlers {
  events(events: readonly LogEvent[]): void;
  /** The window has been played to its end. */
  done?(): void;
  reset?(reset: Reset): void;
  error?(problem: Problem): void;
}

/** A window of the log, played again. Its frames carry its id. After an interruption it goes on behind the last event that came. */
export class Replaying {
  readonly id: string;
  readonly handlers: ReplayHandlers;
  readonly #subject: string;
  readonly #to: From;
  readonly #speed: number;
  #from: From;
  #epoch: string | null = null;
  readonly live = true;
  #events: LogEvent[] = [];

  constructor(id: string, subject: string, from: From, to: From, speed: number, handlers: ReplayHandlers) {
    this.id = id;
    this.handlers = handlers;
    this.#subject = subject;
    this.#from = from;
    this.#to = to;
    this.#speed = speed;
  }

  /** The server takes it, on the log of this connection: places in it are of that log, and another one answers them with a reset. */
  subscribed(epoch: string): void {
    this.#epoch = epoch;
  }

  ask(): ClientOp {
    return { op: "replay", id: this.id, subject: this.#subject, from: this.#from, to: this.#to, speed: this.#speed };
  }

  offer(event: LogEvent): void {
    this.#from = this.#epoch === null ? { seq: event.seq + 1 } : { seq: event.seq + 1, epoch: this.#epoch };
    this.#events.push(event);
  }

  flush(): void {
    if (this.#events.length === 0) return;
    const events = this.#events;
    this.#events = [];
    this.handlers.events(events);
  }
}
