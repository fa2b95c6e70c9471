// How the model learns: loss and validation, the peers that need no network, and what it writes by now.

import { useEffect, useMemo, useState } from "preact/hooks";
import { AsTable } from "./as-table";
import { Chart, type Columns, type Line } from "./chart";
import { useLanguage } from "./language";
import { feed } from "./live";
import type { CurveRow, Run, State } from "./types";

const PEERS = ["5-gram_bits_per_byte", "xz_bits_per_byte", "unigram_bits_per_byte"];

export function Curve({ state, curves }: { state: State; curves: Record<string, CurveRow[]> }) {
  const { text } = useLanguage();
  const [wanted, setWanted] = useState("");
  const run =
    state.runs.find((each) => each.id === wanted) ??
    state.runs.find((each) => each.state === "running") ??
    state.runs.find((each) => each.kind !== "adapt") ??
    state.runs[0];
  useEffect(() => {
    if (run && run.state !== "running") void feed.load(run.id);
  }, [run?.id, run?.state]);
  return (
    <section class="card curve" aria-labelledby="curve-title">
      <header>
        <h2 id="curve-title">{text.training}</h2>
        {run && (
          <label class="pick">
            <span class="hidden">{text.run}</span>
            <select value={run.id} onChange={(event) => setWanted(event.currentTarget.value)}>
              {state.runs.map((each) => (
                <option value={each.id}>{each.id}</option>
              ))}
            </select>
          </label>
        )}
      </header>
      {run ? <Drawn run={run} rows={curves[run.id] ?? []} /> : <p class="quiet empty">{text.noCurve}</p>}
    </section>
  );
}

function Drawn({ run, rows }: { run: Run; rows: CurveRow[] }) {
  const { text, format } = useLanguage();
  const peers = PEERS.filter((name) => typeof run.metrics[name] === "number");
  const levels = peers.map((name) => run.metrics[name] as number);
  const columns = useMemo(() => align(rows, levels), [rows, levels.join()]);
  const lines: Line[] = [
    { label: text.loss, colour: "--faint-olive", scale: "loss" },
    { label: text.validation, colour: "--blue", scale: "bits", points: true },
    ...peers.map((name) => ({ label: name, colour: "--muted", scale: "bits", dash: [4, 4] })),
  ];
  const scored = rows.filter((row) => row.validation_bits_per_byte !== undefined);
  const last = rows.findLast((row) => row.loss !== undefined);
  const sample = rows.findLast((row) => row.sample);
  return (
    <>
      <p class="legend">
        <span><i class="olive" />{text.loss} <b>{format.number(last?.loss)}</b></span>
        <span><i class="blue" />{text.validation} <b>{format.number(scored.at(-1)?.validation_bits_per_byte)}</b></span>
        {peers.map((name, i) => (
          <span><i class="dashed" />{text.outputs[name]} <b>{format.number(levels[i], 2)}</b></span>
        ))}
      </p>
      <Chart
        label={`${text.training}: ${run.id}`}
        columns={columns}
        lines={lines}
        height={172}
        axes={[
          { scale: "loss", side: "left", colour: "--olive" },
          { scale: "bits", side: "right", colour: "--blue" },
        ]}
      />
      {sample?.sample && (
        <figure class="sample">
          <figcaption>{text.writes.replace("{step}", format.number(sample.step, 0))}</figcaption>
          <blockquote lang="pt">{sample.sample}</blockquote>
        </figure>
      )}
      <AsTable caption={text.training} head={[text.step, text.seconds, text.validation]}>
        {scored.map((row) => (
          <tr>
            <th scope="row" class="figure">{format.number(row.step, 0)}</th>
            <td class="figure">{format.duration(row.seconds)}</td>
            <td class="figure">{format.number(row.validation_bits_per_byte)}</td>
          </tr>
        ))}
      </AsTable>
    </>
  );
}

/** Rows to columns: step, loss, validation, one level line for each peer. A step that was run twice counts once. */
function align(rows: CurveRow[], levels: number[]): Columns {
  const byStep = new Map<number, { loss?: number | null; bits?: number | null }>();
  for (const row of rows) {
    const at = byStep.get(row.step) ?? {};
    if (row.loss !== undefined) at.loss = row.loss;
    if (row.validation_bits_per_byte !== undefined) at.bits = row.validation_bits_per_byte;
    byStep.set(row.step, at);
  }
  const steps = [...byStep.keys()].sort((a, b) => a - b);
  const column = (name: "loss" | "bits") => steps.map((step) => byStep.get(step)?.[name] ?? null);
  return [steps, column("loss"), column("bits"), ...levels.map((level) => steps.map(() => level))];
}
