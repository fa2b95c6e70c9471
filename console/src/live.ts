// What the page knows: the state of the server, kept fresh by its event stream.

import { useEffect, useState } from "preact/hooks";
import { forgetLife, ofLife } from "./life";
import type { CurveRow, Gauge, Message, Serving, State } from "./types";

const SILENCE_MS = 5000; // the server speaks every second
const RETRY_MS = 2000;
const KEPT_SECONDS = 180;
const RATE_SECONDS = 5;

/** One second of the live metrics. */
export interface Sample {
  time: number;
  rate: number | null;
  ttft50: number | null;
  ttft95: number | null;
  running: number | null;
  waiting: number | null;
  drift: number | null; // −log₁₀ of the smallest p-value
}

export interface Live {
  connected: boolean;
  denied: boolean; // the server answers, but not to us
  state: State | null;
  samples: Sample[];
  curves: Record<string, CurveRow[]>;
}

type Listener = (live: Live) => void;

class Feed {
  live: Live = { connected: false, denied: false, state: null, samples: [], curves: {} };
  private listeners = new Set<Listener>();
  private source: EventSource | null = null;
  private heard = 0;
  private tried = 0; // when the connection was last asked for
  private totals: { time: number; total: number }[] = []; // requests, over the last RATE_SECONDS

  listen(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  open(): void {
    this.connect();
    setInterval(() => {
      if (this.live.denied) return; // until somebody signs in
      const silent = Date.now() - this.heard > SILENCE_MS;
      if (silent) this.set({ connected: false });
      // A connection that a dying server took and never answered stays "connecting" for ever: it is given up as well.
      const stuck = Date.now() - this.tried > SILENCE_MS;
      if (silent && (stuck || this.source?.readyState !== EventSource.CONNECTING)) this.connect();
    }, RETRY_MS);
  }

  /** After signing in. */
  again(): void {
    this.set({ denied: false });
    this.connect();
  }

  /** The whole curve of a run that no longer learns. */
  async load(run: string): Promise<void> {
    const response = await fetch(ofLife(`/admin/curve?run=${encodeURIComponent(run)}`));
    if (response.ok) this.keepRows(run, true, ((await response.json()) as { rows: CurveRow[] }).rows);
  }

  private connect(): void {
    this.source?.close();
    this.tried = Date.now();
    this.source = new EventSource(ofLife("/admin/events"));
    this.source.onmessage = (event: MessageEvent<string>) => {
      this.heard = Date.now();
      this.take(JSON.parse(event.data) as Message);
    };
    this.source.onerror = () => void this.explain();
  }

  private async explain(): Promise<void> {
    this.set({ connected: false });
    const response = await fetch(ofLife("/admin/state")).catch(() => null);
    if (response?.status === 404 && forgetLife()) return this.connect();
    const denied = response?.status === 401 || response?.status === 403;
    if (denied) this.source?.close();
    this.set({ denied });
  }

  private take(message: Message): void {
    if (message.type === "state") {
      const { type: _, ...state } = message;
      this.set({ connected: true, state });
    } else if (message.type === "gauges") {
      const { time, gauges, serving } = message;
      const state = this.live.state && { ...this.live.state, time, gauges, serving };
      const samples = [...this.live.samples, this.sample(time, gauges, serving)].filter((s) => s.time > time - KEPT_SECONDS);
      this.set({ connected: true, state, samples });
    } else {
      this.keepRows(message.run, message.fresh, message.rows);
    }
  }

  private sample(time: number, gauges: Gauge[], serving: Serving): Sample {
    return {
      time,
      rate: this.rate(time, serving.requests_total ?? null),
      ttft50: serving.ttft_p50 ?? null,
      ttft95: serving.ttft_p95 ?? null,
      running: serving.running ?? null,
      waiting: serving.waiting ?? null,
      drift: evidence(gauges),
    };
  }

  private rate(time: number, total: number | null): number | null {
    const past = this.totals.at(-1);
    if (total === null || (past && total < past.total)) this.totals = []; // a restarted server counts from nought
    if (total === null) return null;
    this.totals = [...this.totals.filter((each) => each.time >= time - RATE_SECONDS), { time, total }];
    const first = this.totals[0];
    return first && time > first.time ? (total - first.total) / (time - first.time) : null;
  }

  private keepRows(run: string, fresh: boolean, rows: CurveRow[]): void {
    const kept = fresh ? [] : (this.live.curves[run] ?? []);
    this.set({ curves: { ...this.live.curves, [run]: [...kept, ...rows] } });
  }

  private set(change: Partial<Live>): void {
    this.live = { ...this.live, ...change };
    for (const listener of this.listeners) listener(this.live);
  }
}

export const feed = new Feed();

export function useLive(): Live {
  const [live, setLive] = useState(feed.live);
  useEffect(() => {
    setLive(feed.live);
    return feed.listen(setLive);
  }, []);
  return live;
}

function evidence(gauges: Gauge[]): number | null {
  const found = gauges.filter((gauge) => gauge.name === "drift_pvalue" && gauge.value !== null);
  return found.length ? -Math.log10(Math.max(1e-12, Math.min(...found.map((gauge) => gauge.value as number)))) : null;
}

export function alarmGauge(gauges: Gauge[]): Gauge | null {
  return gauges.find((gauge) => gauge.name === "drift_alarm" && (gauge.value ?? 0) > 0) ?? null;
}
