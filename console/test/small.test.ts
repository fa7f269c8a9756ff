import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { Backoff } from "../src/client/backoff.ts";
import { Pattern } from "../src/client/subjects.ts";

test("the generated event types are what the catalogue says (npm run generate)", async () => {
  const script = "../scripts/generate-events.mjs";
  const { generate } = (await import(/* @vite-ignore */ script)) as { generate: (schema: unknown) => string };
  const read = (path: string) => readFileSync(new URL(path, import.meta.url), "utf8");
  const schema: unknown = JSON.parse(read("../../tests/golden/events.schema.json"));
  expect(generate(schema) === read("../src/client/events.gen.ts"), "run: npm run generate").toBe(true);
});

test.each([
  ["aura.>", "aura.job.1.j.created", true],
  ["aura.>", "aura", false],
  ["aura.job.>", "aura.model.m.online", false],
  ["aura.job.*.*.assigned.*", "aura.job.1.j.assigned.m", true],
  ["aura.job.*.*.assigned", "aura.job.1.j.assigned.m", false],
  ["aura.*.1.*.created", "aura.job.1.j.created", true],
  ["aura.job.1.j.created", "aura.job.1.j", false],
])("%s selects %s: %s", (pattern, subject, wanted) => {
  expect(new Pattern(pattern).matches(subject.split("."))).toBe(wanted);
});

test("pauses are drawn evenly from 0 to a bound that doubles; only what held starts anew", () => {
  let now = 0;
  let share = 1;
  const backoff = new Backoff({ firstMs: 100, mostMs: 1_000, steadyMs: 5_000, random: () => share, now: () => now });
  expect([1, 2, 3, 4, 5].map(() => backoff.next())).toEqual([100, 200, 400, 800, 1_000]);
  share = 0;
  expect(backoff.next()).toBe(0);
  expect(backoff.next(2_000)).toBe(2_000);
  share = 1;
  backoff.began();
  now += 4_999;
  expect(backoff.next()).toBe(1_000);
  backoff.began();
  now += 5_000;
  expect(backoff.next()).toBe(100);
});
