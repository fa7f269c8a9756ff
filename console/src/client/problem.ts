/** An error that the gateway described (RFC 9457), or that stands for one it could not describe. `code` is stable: match on it. */
export class Problem extends Error {
  override readonly name = "Problem";
  /** HTTP status, or 0 where there was no answer. */
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  readonly title: string;
  readonly traceId: string | null;
  /** Seconds after which a repeat makes sense. */
  readonly retryAfterS: number | null;
  /** Everything that came with it (`field`, `status_of_job`, …). */
  readonly body: Readonly<Record<string, unknown>>;

  constructor(status: number, body: Record<string, unknown>, cause?: unknown) {
    const title = text(body.title) ?? (status === 0 ? "No answer" : `HTTP ${status}`);
    const detail = text(body.detail) ?? title;
    super(detail, cause === undefined ? undefined : { cause });
    this.status = status;
    this.code = text(body.code) ?? (status === 0 || status >= 500 ? "unavailable" : "refused");
    this.title = title;
    this.detail = detail;
    this.traceId = text(body.trace_id);
    this.retryAfterS = typeof body.retry_after_s === "number" ? body.retry_after_s : null;
    this.body = body;
  }

  /** A repeat may succeed. */
  get transient(): boolean {
    return [429, 502, 503, 504].includes(this.status) || this.code === "unavailable" || this.code === "overloaded";
  }

  /** From an answer that is not 2xx; a body that is no problem is judged by the status. */
  static async of(answer: Response): Promise<Problem> {
    let body: unknown;
    try {
      body = await answer.json();
    } catch {
      body = null;
    }
    return new Problem(answer.status, isObject(body) ? body : {});
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function text(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}
