// Champion and challenger side by side, with every number that the gate looks at.

import { Actions } from "./actions";
import { DASH, short } from "./format";
import { comparison, type Gate, ownScores } from "./gate";
import { useLanguage } from "./language";
import { told } from "./reasons";
import type { Text } from "./text";
import type { Artifact, Decision, State } from "./types";

export function Duel({ state }: { state: State }) {
  const { text, language } = useLanguage();
  const { champion, challenger, gate, decision, waits } = comparison(state);
  const past = decision?.verdict === "promoted"; // then what the numbers compare it with no longer serves
  return (
    <section class="card duel" aria-labelledby="duel-title">
      <header>
        <h2 id="duel-title">{text.comparison}</h2>
        {decision && <Verdict decision={decision} />}
      </header>
      <div class="pair">
        <Model role={past ? text.previous : text.champion} artifact={champion} />
        <Model role={text.challenger} artifact={challenger} />
      </div>
      {waits && <p class="call">{text.awaiting}</p>}
      <Scores state={state} gate={gate} champion={champion} past={past} />
      {gate ? <Criteria gate={gate} /> : <p class="quiet">{text.noGate}</p>}
      {gate && gate.reasons.length > 0 && (
        <>
          <h3>{text.reasons}</h3>
          <ul class="reasons">{gate.reasons.map((reason) => <li>{told(reason, language)}</li>)}</ul>
        </>
      )}
      <Actions state={state} refused={decision?.verdict === "rejected"} />
    </section>
  );
}

function Model({ role, artifact }: { role: string; artifact: Artifact | null }) {
  const { text, format } = useLanguage();
  return (
    <div class="model">
      <h3>{role}</h3>
      <p class="mono strong" title={artifact?.digest}>{artifact ? short(artifact.digest) : DASH}</p>
      <p class="quiet">{artifact ? `${origin(artifact, text)}, ${format.moment(artifact.created)}` : text.none}</p>
    </div>
  );
}

/** The stage that made it. */
function origin(artifact: Artifact, text: Text): string {
  const stage = String(artifact.lineage.stage);
  return text.stages[stage as keyof Text["stages"]] ?? artifact.kind;
}

export function Verdict({ decision }: { decision: Decision }) {
  const { text } = useLanguage();
  const good = decision.verdict === "promoted";
  const bad = ["rejected", "refused", "failed"].includes(decision.verdict);
  return (
    <span class={`verdict${good ? " good" : bad ? " poor" : ""}`}>
      {good ? "✓ " : bad ? "✕ " : ""}
      {text.verdicts[decision.verdict] ?? decision.verdict}
    </span>
  );
}

interface ScoresProps {
  state: State;
  gate: Gate | null;
  champion: Artifact | null;
  past: boolean;
}

function Scores({ state, gate, champion, past }: ScoresProps) {
  const { text, format } = useLanguage();
  const own = ownScores(champion);
  const rows = (["base", "new"] as const).map((domain) => ({
    name: domain === "base" ? text.baseDomain : text.newDomain,
    source: (gate ? gate[domain].name : own.name) ?? state.world?.sources[domain] ?? "",
    before: gate ? gate[domain].before : own[domain],
    after: gate ? gate[domain].after : null,
  }));
  const most = Math.max(...rows.flatMap((row) => [row.before ?? 0, row.after ?? 0]), 1e-9);
  return (
    <table class="scores">
      {!(gate ? gate.base.name : own.name) && <caption>{text.lowerIsBetter}</caption>}
      {rows.map(({ name, source, before, after }) => (
        <tbody>
          <tr>
            <th scope="rowgroup" colSpan={2}>
              <b>{name}</b> <span class="quiet">{source}</span>
            </th>
            <td class="figure quiet">{before && after ? format.signedPercent(after / before - 1) : ""}</td>
          </tr>
          <Bar name={past ? text.previous : text.champion} value={before} most={most} kind="before" />
          {after !== null && <Bar name={text.challenger} value={after} most={most} kind="after" />}
        </tbody>
      ))}
    </table>
  );
}

function Bar({ name, value, most, kind }: { name: string; value: number | null; most: number; kind: string }) {
  const { format } = useLanguage();
  return (
    <tr class="bar">
      <th scope="row">{name}</th>
      <td>
        <i class={kind} style={{ width: `${value === null ? 0 : (100 * value) / most}%` }} />
      </td>
      <td class="figure">{format.number(value)}</td>
    </tr>
  );
}

function Criteria({ gate }: { gate: Gate }) {
  const { text, format } = useLanguage();
  const { limits } = gate;
  const within = (value: number | null, limit: number | null, most: boolean) =>
    value === null || limit === null ? null : most ? value <= limit : value >= limit;
  const rows = [
    { name: text.gain, value: format.signed(gate.gain), limit: `≥ ${format.number(limits.gain)}`, ok: within(gate.gain, limits.gain, false) },
    {
      name: text.forgetting, value: format.signedPercent(gate.forgetting), limit: `≤ ${format.percent(limits.forgetting)}`,
      ok: within(gate.forgetting, limits.forgetting, true),
    },
    {
      name: text.latency, value: `× ${format.number(gate.latency, 2)}`, limit: `≤ × ${format.number(limits.latency, 2)}`,
      ok: within(gate.latency, limits.latency, true),
    },
    { name: text.smoke, value: gate.smoke === null ? DASH : gate.smoke ? text.passed : text.missed, limit: text.passed, ok: gate.smoke },
  ];
  return (
    <table class="criteria">
      <thead>
        <tr>
          <th scope="col">{text.criterion}</th>
          <th scope="col" class="figure">{text.measured}</th>
          <th scope="col" class="figure">{text.limit}</th>
          <td />
        </tr>
      </thead>
      <tbody>
        {rows.map((row) => (
          <tr>
            <th scope="row">{row.name}</th>
            <td class="figure">{row.value}</td>
            <td class="figure quiet">{row.limit}</td>
            <td class={row.ok === null ? "" : row.ok ? "ok" : "no"}>
              {row.ok !== null && (
                <span role="img" aria-label={row.ok ? text.fulfilled : text.notFulfilled}>{row.ok ? "✓" : "✕"}</span>
              )}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
