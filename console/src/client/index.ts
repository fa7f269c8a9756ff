/**
 * Aura Orchestra from TypeScript: follow the log live, and send commands. No dependencies; browsers, and Node with a `WebSocket`.
 *
 * `connect` speaks the native protocol `aura.v1`: one socket for everything a page follows, exponential back-off with full jitter, every
 * subscription resumed by sequence, an explicit reset where that cannot be. Guide: docs/guides/clients.md.
 */
export { type Connection, type ConnectOptions, connect, type Playing, type Subscription } from "./connection.ts";
export type * from "./events.gen.ts";
export {
  type GetOptions,
  Http,
  type HttpOptions,
  isProblem,
  type Page,
  type PostOptions,
  type Query,
  statusOfJob,
} from "./http.ts";
export type { LineState, LineStatus, Socket, SocketConstructor, Timing } from "./line.ts";
export type { Observable } from "./observable.ts";
export { Problem } from "./problem.ts";
export type { From, LogEvent, Note, Position, Reset, Start } from "./protocol.ts";
export type { Handlers, OutputHandlers, OutputRecord, ReplayHandlers } from "./subscription.ts";
