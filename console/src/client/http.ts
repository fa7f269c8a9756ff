import { Backoff } from "./backoff.ts";
import { isObject, Problem } from "./problem.ts";

export interface HttpOptions {
  /** The gateway: `http(s)://…`; "" for the page's own origin. */
  readonly url: string;
  /** Sent with every request (`Authorization`). */
  readonly headers?: (() => Record<string, string>) | undefined;
  /** How often a request is sent at most. */
  readonly tries?: number | undefined;
  readonly fetch?: typeof fetch | undefined;
  readonly random?: (() => number) | undefined;
}

export type Query = Readonly<Record<string, string | number | boolean | readonly string[] | null | undefined>>;

export interface GetOptions {
  readonly signal?: AbortSignal;
}

export interface PostOptions extends GetOptions {
  /** The idempotency key; one of its own otherwise. A button makes one per click. */
  readonly key?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A page of a list, and how to get the next one. */
export interface Page<T> {
  readonly rows: readonly T[];
  readonly next: (() => Promise<Page<T>>) | null;
}

/**
 * Requests with typed errors: everything that fails is a {@link Problem} (or the `AbortError` that you asked for).
 *
 * A POST carries an `Idempotency-Key`, so one whose answer got lost is sent again as it was, with pauses (full jitter), after no answer,
 * 429, 502, 503 and 504.
 */
export class Http {
  readonly #options: HttpOptions;
  readonly #fetch: typeof fetch;

  constructor(options: HttpOptions) {
    this.#options = options;
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
  }

  async get<T>(path: string, query: Query = {}, options: GetOptions = {}): Promise<T> {
    return decoded<T>(await this.ask(path + search(query), { method: "GET", signal: options.signal ?? null }));
  }

  /** A list whose `Link` header names its next page. */
  async page<T>(path: string, query: Query = {}, options: GetOptions = {}): Promise<Page<T>> {
    const answer = await this.ask(path + search(query), { method: "GET", signal: options.signal ?? null });
    const link = /<([^>]*)>;\s*rel="?next"?/.exec(answer.headers.get("link") ?? "")?.[1];
    const rows = await decoded<T[]>(answer);
    return { rows, next: link === undefined ? null : () => this.page<T>(link, {}, options) };
  }

  /** Send a command. `null` for an empty answer. */
  async post<T>(path: string, body: unknown = null, options: PostOptions = {}): Promise<T> {
    const headers = {
      "content-type": "application/json",
      "idempotency-key": options.key ?? crypto.randomUUID(),
      ...options.headers,
    };
    const init = { method: "POST", headers, body: JSON.stringify(body), signal: options.signal ?? null };
    return decoded<T>(await this.ask(path, init));
  }

  /** A single-use ticket for a WebSocket: give this to `connect({ ticket: () => http.ticket() })`. */
  async ticket(): Promise<string> {
    return (await this.post<{ ticket: string }>("/auth/tickets")).ticket;
  }

  /** The answer to one request, 2xx for sure, after as many tries as it takes. */
  async ask(path: string, init: RequestInit): Promise<Response> {
    const { url, headers, tries = 4, random = Math.random } = this.#options;
    const backoff = new Backoff({ firstMs: 200, mostMs: 5_000, steadyMs: 0, random, now: () => 0 });
    const request = { ...init, headers: { accept: "application/json", ...headers?.(), ...init.headers } };
    for (let left = tries - 1; ; left -= 1) {
      const failure = await this.#once(url.replace(/\/$/, "") + path, request);
      if (failure instanceof Response) return failure;
      if (left <= 0 || !failure.transient) throw failure;
      await pause(backoff.next(1000 * (failure.retryAfterS ?? 0)), init.signal ?? null);
    }
  }

  async #once(url: string, init: RequestInit): Promise<Response | Problem> {
    let answer: Response;
    try {
      answer = await this.#fetch(url, init);
    } catch (error) {
      if (init.signal?.aborted) throw error;
      return new Problem(0, { detail: "no answer from the gateway" }, error);
    }
    return answer.ok ? answer : Problem.of(answer);
  }
}

async function decoded<T>(answer: Response): Promise<T> {
  const body = await answer.text();
  if (body === "") return null as T;
  try {
    return JSON.parse(body) as T;
  } catch (error) {
    throw new Problem(answer.status, { code: "protocol", detail: "the answer is no JSON" }, error);
  }
}

function search(query: Query): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === null || value === undefined) continue;
    for (const each of Array.isArray(value) ? value : [value]) found.append(name, String(each));
  }
  const text = found.toString();
  return text === "" ? "" : `?${text}`;
}

function pause(ms: number, signal: AbortSignal | null): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Whether a caught value is a problem with a stable code (`conflict`, `not_found`, …). */
export function isProblem(error: unknown, code?: string): error is Problem {
  return error instanceof Problem && (code === undefined || error.code === code);
}

/** The status that a job is in, as a refusal (`conflict`) says it. */
export function statusOfJob(problem: Problem): string | null {
  return isObject(problem.body) && typeof problem.body.status_of_job === "string" ? problem.body.status_of_job : null;
}
