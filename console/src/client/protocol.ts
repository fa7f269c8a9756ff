import type { AuraEvent } from "./events.gen.ts";

/** The WebSocket subprotocol that this module speaks (API.md, "Native protocol"). */
export const SUBPROTOCOL = "aura.v1";

/** Where a subscription begins: now, with the event `seq` (of the log `epoch`), with the `last` n events, or after a time. */
export type From = "now" | { seq: number; epoch?: string } | { last: number } | { time: string };

/** The same, and where another subscription was: {@link Position}. */
export type Start = From | { after: Position };

/** A place in a log: everything up to `seq` was handed out. Keep it to go on there, also after the page was closed. */
export interface Position {
  readonly epoch: string;
  readonly seq: number;
}

/** A committed event. */
export interface LogEvent<E extends AuraEvent = AuraEvent> {
  readonly seq: number;
  readonly subject: string;
  readonly event: E;
}

/** Something live only (a heartbeat): no sequence, not in the log, not made up for after an interruption. */
export interface Note {
  readonly subject: string;
  readonly event: Readonly<Record<string, unknown>>;
}

/** The feed could not go on where it was. What lies between is unknown: draw the picture anew from `seq` on. */
export interface Reset {
  readonly epoch: string;
  readonly reason: string;
  readonly seq: number;
}

export type ClientOp =
  | { op: "subscribe"; id: string; subject: string; from: From }
  | { op: "unsubscribe"; id: string }
  | { op: "replay"; id: string; subject: string; from: From; to: From; speed: number }
  | { op: "auth"; ticket: string }
  | { op: "ping" };
