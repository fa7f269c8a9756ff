/** Bounds in milliseconds. */
export interface BackoffOptions {
  readonly firstMs: number;
  readonly mostMs: number;
  /** A try that held so long starts the series anew; one that broke off sooner does not. */
  readonly steadyMs: number;
  /** Evenly from 0 (inclusive) to 1. */
  readonly random: () => number;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** Exponential pauses with full jitter, so that a thousand browsers do not return to a restarted gateway in step. */
export class Backoff {
  readonly #options: BackoffOptions;
  #failures = 0;
  #since: number | null = null;

  constructor(options: BackoffOptions) {
    this.#options = options;
  }

  /** It works, from now on. */
  began(): void {
    this.#since = this.#options.now();
  }

  /** It failed: how long to pause. `atLeastMs` is what the server asked for; the jitter comes on top. */
  next(atLeastMs = 0): number {
    const { firstMs, mostMs, steadyMs, random, now } = this.#options;
    if (this.#since !== null && now() - this.#since >= steadyMs) this.#failures = 0;
    this.#since = null;
    const most = Math.min(mostMs, firstMs * 2 ** Math.min(this.#failures, 32));
    this.#failures += 1;
    return atLeastMs + random() * most;
  }

  /** Somebody knows that it is worth trying now (the network came back). */
  reset(): void {
    this.#failures = 0;
  }
}
