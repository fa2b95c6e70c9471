// The JSON of GET /admin/state and of the messages of GET /admin/events (oliveira/console/state.py, routes.py).

export type Value = number | string | boolean | null | Value[] | { [name: string]: Value };
export type Values = Record<string, Value>;

export type StageState = "waiting" | "running" | "done" | "failed";

export interface Stage {
  name: string;
  state: StageState;
  outputs: Values;
  message?: string | null;
  digest?: string | null;
  started?: number;
  finished?: number | null;
  seconds?: number | null;
  attempts?: number;
}

export interface Artifact {
  digest: string;
  kind: string;
  created: number;
  metrics: Values;
  lineage: Values;
}

export interface Decision {
  id: number;
  time: number;
  kind: string;
  verdict: string;
  digest: string | null;
  previous: string | null;
  actor: string;
  numbers: Values;
}

export interface Gauge {
  name: string;
  labels: Record<string, string>;
  value: number | null;
  time: number;
}

export interface LedgerEvent {
  id: number;
  time: number;
  kind: string;
  data: Values;
}

export interface Wish {
  id: number;
  time: number;
  kind: string;
  args: Values;
  actor: string;
  state: "pending" | "done" | "failed";
  result: Values | null;
}

export interface Run {
  id: string;
  kind: string;
  state: string;
  started: number;
  finished: number | null;
  metrics: Values;
}

export interface World {
  name: string;
  seed: number;
  task?: string | null; // of a life that answers instead of continuing a text
  sources: { base: string; new: string };
  model: Values;
  steps: number | null; // of a text life
  gate: { min_gain: number; max_forgetting: number; max_latency: number; require_approval: boolean };
}

/** What the front knows of itself; every field may be absent while the engine starts. */
export interface Serving {
  draining?: boolean;
  digest?: string | null; // of the model that answers; null while none does
  failure?: string | null; // why the champion does not
  asleep?: boolean; // its engine waits for a request
  model?: string; // name of the life that is shown
  models?: Record<string, { digest: string | null; task: string | null; asleep: boolean; failure: string | null }>;
  running?: number;
  waiting?: number;
  requests_total?: number;
  ttft_p50?: number | null;
  ttft_p95?: number | null;
}

export interface State {
  version: string;
  time: number;
  world: World | null;
  stages: Stage[];
  aliases: { champion?: string; challenger?: string; previous?: string };
  artifacts: Artifact[];
  decisions: Decision[];
  gauges: Gauge[];
  events: LedgerEvent[];
  wishes: Wish[];
  paused: boolean;
  runs: Run[];
  serving: Serving;
}

export interface CurveRow {
  step: number;
  seconds: number;
  loss?: number | null;
  lr?: number;
  validation_bits_per_byte?: number | null;
  sample?: string;
}

export type Message =
  | ({ type: "state" } & State)
  | { type: "gauges"; time: number; gauges: Gauge[]; serving: Serving }
  | { type: "curve"; run: string; fresh: boolean; rows: CurveRow[] };
