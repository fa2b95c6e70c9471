// The last three minutes of the server: four figures, each with its line.

import { AsTable } from "./as-table";
import { Chart, type Line } from "./chart";
import { DASH } from "./format";
import { useLanguage } from "./language";
import { alarmGauge, type Sample } from "./live";
import type { State } from "./types";

interface Tile {
  name: string;
  value: string;
  note: string;
  lines: Line[];
  columns: (number | null)[][];
  loud?: boolean;
}

export function Metrics({ state, samples }: { state: State; samples: Sample[] }) {
  const { text, format } = useLanguage();
  const last = samples.at(-1);
  const pick = (name: keyof Sample) => samples.map((sample) => sample[name]);
  const alarm = alarmGauge(state.gauges) !== null;
  const tiles: Tile[] = [
    {
      name: text.rate,
      value: `${format.number(last?.rate, 1)} ${text.perSecond}`,
      note: `${format.number(last?.running, 0)} ${text.running}`,
      lines: [{ label: text.rate, colour: "--olive", fill: true }],
      columns: [pick("rate")],
    },
    {
      name: text.ttft,
      value: format.milliseconds(last?.ttft50),
      note: `p95 ${format.milliseconds(last?.ttft95)}`,
      lines: [
        { label: "p95", colour: "--muted" },
        { label: text.median, colour: "--olive" },
      ],
      columns: [pick("ttft95"), pick("ttft50")],
    },
    {
      name: text.queue,
      value: format.number(last?.waiting, 0),
      note: text.waiting,
      lines: [{ label: text.queue, colour: "--olive", fill: true }],
      columns: [pick("waiting")],
    },
    {
      name: text.drift,
      value: last?.drift == null ? DASH : `p ${format.pvalue(10 ** -last.drift)}`,
      note: alarm ? text.alarmed : text.quiet,
      lines: [{ label: text.evidence, colour: alarm ? "--amber" : "--olive", fill: true }],
      columns: [pick("drift")],
      loud: alarm,
    },
  ];
  const times = pick("time");
  return (
    <section class="card metrics" aria-labelledby="live-title">
      <header>
        <h2 id="live-title">{text.live}</h2>
        <p class="quiet">{text.liveHint}</p>
      </header>
      <div class="tiles">
        {tiles.map((tile) => (
          <div class={tile.loud ? "tile loud" : "tile"}>
            <h3>{tile.name}</h3>
            <p class="big">{tile.value}</p>
            <p class="quiet">{tile.note}</p>
            <Chart label={`${tile.name}: ${tile.value}`} columns={[times, ...tile.columns]} lines={tile.lines} height={60} bare range={{ y: fromNought }} />
          </div>
        ))}
      </div>
      <AsTable caption={text.live} head={[text.metric, text.value]}>
        {tiles.map((tile) => (
          <tr>
            <th scope="row">{tile.name}</th>
            <td>{tile.value}, {tile.note}</td>
          </tr>
        ))}
        {state.gauges.map((gauge) => (
          <tr>
            <th scope="row" class="mono">
              {gauge.name} {Object.entries(gauge.labels).map(([name, value]) => `${name}=${value}`).join(" ")}
            </th>
            <td class="figure">{format.output(gauge.name, gauge.value)}</td>
          </tr>
        ))}
      </AsTable>
    </section>
  );
}

function fromNought(_: number, high: number): [number, number] {
  return [0, Math.max(high * 1.15, 1e-6)];
}
