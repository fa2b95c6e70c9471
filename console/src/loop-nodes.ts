// The boxes of the seed's flow and the stages of the ledger that each stands for.

import type { Stage, StageState, State, Value } from "./types";
import type { Text } from "./text";

export interface Node {
  id: keyof Text["nodes"];
  stages: Stage[];
  state: StageState;
  seconds: number | null;
}

const NODES: [keyof Text["nodes"], string[]][] = [
  ["collect", ["collect"]],
  ["preprocess", ["preprocess"]],
  ["train", ["train", "bring_in"]],
  ["optimise", ["adapt", "compress"]],
  ["package", ["package", "export"]],
  ["deploy", ["serve"]],
  ["monitor", ["monitor"]],
  ["update", ["update"]],
];

export function nodes(state: State): Node[] {
  return NODES.map(([id, names]) => {
    const stages = state.stages.filter((stage) => names.includes(stage.name));
    return { id, stages, state: joined(stages), seconds: spent(stages, state.time) };
  });
}

function joined(stages: Stage[]): StageState {
  const has = (state: StageState) => stages.some((stage) => stage.state === state);
  if (has("failed")) return "failed";
  if (has("running")) return "running";
  return stages.every((stage) => stage.state === "done") ? "done" : "waiting";
}

/** Seconds of the stages that ran; a running one counts until `now`. */
export function spent(stages: Stage[], now: number): number | null {
  const each = stages.map((stage) =>
    stage.state === "running" && stage.started != null ? Math.max(0, now - stage.started) : (stage.seconds ?? null),
  );
  return each.every((seconds) => seconds === null) ? null : each.reduce<number>((sum, seconds) => sum + (seconds ?? 0), 0);
}

// What the middle of the loop shows of each stage; the table shows everything.
const MAIN: Record<string, RegExp> = {
  collect: /_(source|licence|characters|documents)$/,
  preprocess: /_(tokens|duplicates)$/,
  compress: /_(bytes|loss|decode_ms|metric|answer_ms)$/,
};

type Output = [name: string, value: Value];

export function mainOutputs(stage: Stage): Output[] {
  const main = MAIN[stage.name];
  return Object.entries(stage.outputs).filter(([name, value]) => (!main || main.test(name)) && typeof value !== "object");
}

/** In the order of their names in the dictionary, so that before stands before after; unknown ones last. */
export function inOrder(outputs: Output[], text: Text): Output[] {
  const names = Object.keys(text.outputs);
  const rank = (name: string) => (names.includes(name) ? names.indexOf(name) : names.length);
  return [...outputs].sort(([a], [b]) => rank(a) - rank(b));
}
