// The numbers of the gate, as the loop writes them into a decision and into the challenger's metrics.

import type { Artifact, Decision, State, Value, Values } from "./types";

export interface Pair {
  name: string | null; // of the metric; null = bits per byte
  before: number | null;
  after: number | null;
}

export interface Gate {
  base: Pair;
  new: Pair;
  gain: number | null;
  forgetting: number | null;
  latency: number | null;
  smoke: boolean | null;
  reasons: string[];
  limits: { gain: number | null; forgetting: number | null; latency: number | null };
}

export interface Comparison {
  champion: Artifact | null; // what the numbers call "before"
  challenger: Artifact | null; // and "after"
  gate: Gate | null;
  decision: Decision | null; // the last word on the challenger; null before there is one
  waits: boolean; // the challenger stands there and nothing is decided
}

const object = (value: Value | undefined): Values | null =>
  value && typeof value === "object" && !Array.isArray(value) ? value : null;
const number = (value: Value | undefined): number | null => (typeof value === "number" ? value : null);

/** A waiting challenger against the champion; otherwise what the last one at the gate showed. */
export function comparison(state: State): Comparison {
  const find = (digest?: string | null) => state.artifacts.find((artifact) => artifact.digest === digest) ?? null;
  const champion = find(state.aliases.champion);
  const challenger = find(state.aliases.challenger);
  if (challenger) {
    const decision = state.decisions.find((each) => each.digest === challenger.digest) ?? null;
    const waits = !decision || decision.verdict === "awaiting approval";
    return { champion, challenger, gate: readGate(challenger.metrics), decision, waits };
  }
  for (const measured of state.decisions) {
    const gate = readGate(measured.numbers);
    if (!gate) continue;
    // A person may have approved or rejected it after the gate had spoken, and rolled it back after that.
    const about = (each: Decision) => (each.kind === "rollback" ? each.previous : each.digest) === measured.digest;
    const decision = state.decisions.find(about) ?? measured;
    return { champion: find(measured.previous), challenger: find(measured.digest), gate, decision, waits: false };
  }
  return { champion, challenger: null, gate: null, decision: null, waits: false };
}

/** Bits per byte of text, or a task's metric and the error of the answers whose truth came back. */
const scoresOf = (numbers: Values): Values | null => object(numbers.validation_bits_per_byte) ?? object(numbers.scores);

export function readGate(numbers: Values): Gate | null {
  const scores = scoresOf(numbers);
  const [base, fresh] = [pair(scores?.base), pair(scores?.new)];
  if (!base || !fresh) return null;
  const limits = object(numbers.thresholds);
  return {
    base,
    new: fresh,
    gain: number(numbers.gain),
    forgetting: number(numbers.forgetting),
    latency: number(numbers.latency_ratio),
    smoke: typeof numbers.smoke === "boolean" ? numbers.smoke : null,
    reasons: Array.isArray(numbers.reasons) ? numbers.reasons.map(String) : [],
    limits: { gain: number(limits?.min_gain), forgetting: number(limits?.max_forgetting), latency: number(limits?.max_latency) },
  };
}

function pair(value: Value | undefined): Pair | null {
  const found = object(value);
  const name = typeof found?.name === "string" ? found.name : null;
  return found && { name, before: number(found.before), after: number(found.after) };
}

/** The plain scores of a model that never stood at the gate. */
export function ownScores(artifact: Artifact | null): { base: number | null; new: number | null; name: string | null } {
  const scores = artifact && scoresOf(artifact.metrics);
  const score = (value: Value | undefined) => number(value) ?? number(object(value)?.after);
  return { base: score(scores?.base), new: score(scores?.new), name: pair(scores?.base)?.name ?? null };
}
