/** A NATS pattern: `*` is one token, `>` one or more at the end. */
export class Pattern {
  readonly #tokens: readonly string[];
  readonly #rest: boolean;

  constructor(pattern: string) {
    const tokens = pattern.split(".");
    this.#rest = tokens.at(-1) === ">";
    this.#tokens = this.#rest ? tokens.slice(0, -1) : tokens;
  }

  /** Whether it selects a subject, given as its tokens. */
  matches(subject: readonly string[]): boolean {
    const wanted = this.#tokens;
    if (this.#rest ? subject.length <= wanted.length : subject.length !== wanted.length) return false;
    for (let index = 0; index < wanted.length; index += 1) {
      const token = wanted[index];
      if (token !== "*" && token !== subject[index]) return false;
    }
    return true;
  }
}
