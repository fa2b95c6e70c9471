// What was decided, by whom and why; what else happened.

import { DASH, type Formats, short } from "./format";
import { Verdict } from "./duel";
import { readGate } from "./gate";
import { useLanguage } from "./language";
import { told } from "./reasons";
import type { Text } from "./text";
import type { Decision, State, Value, Values } from "./types";

export function Decisions({ state }: { state: State }) {
  const { text } = useLanguage();
  return (
    <section class="card decisions" aria-labelledby="history-title">
      <header>
        <h2 id="history-title">{text.history}</h2>
      </header>
      {state.decisions.length === 0 ? (
        <p class="quiet empty">{text.noHistory}</p>
      ) : (
        <div class="scroll" tabIndex={0} role="group" aria-label={text.history}>
          <table>
            <thead>
              <tr>
                <th scope="col">{text.time}</th>
                <th scope="col">{text.decision}</th>
                <th scope="col">{text.artifact}</th>
                <th scope="col" class="figure">{text.newDomain}</th>
                <th scope="col" class="figure">{text.baseDomain}</th>
                <th scope="col">{text.actor}</th>
              </tr>
            </thead>
            <tbody>{state.decisions.map((decision) => <Row key={decision.id} decision={decision} />)}</tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function Row({ decision }: { decision: Decision }) {
  const { text, format, language } = useLanguage();
  const gate = readGate(decision.numbers);
  const reasons = gate?.reasons.map((reason) => told(reason, language)).join("; ") || (typeof decision.numbers.reason === "string" ? decision.numbers.reason : "");
  const { before, after } = gate?.new ?? {};
  return (
    <tr title={reasons}>
      <td class="figure left">{format.moment(decision.time)}</td>
      <td>
        <span class="what">{text.decisions[decision.kind] ?? decision.kind}</span> <Verdict decision={decision} />
      </td>
      <td class="mono" data-name={text.artifact}>{short(decision.digest)}</td>
      <td class="figure" data-name={text.newDomain}>{before && after ? format.signedPercent(after / before - 1) : DASH}</td>
      <td class="figure" data-name={text.baseDomain}>{format.signedPercent(gate?.forgetting)}</td>
      <td data-name={text.actor}>{text.words[decision.actor] ?? decision.actor}</td>
    </tr>
  );
}

/** Nested values as words: `tokens js 0.51 / 0.000003`. */
function plain(name: string, value: Value, format: Formats, text: Text): string {
  if (Array.isArray(value)) return value.map((each) => plain(name, each, format, text)).join(" / ");
  if (typeof value === "string" && value in text.words) return text.words[value] ?? value;
  if (value === null || typeof value !== "object") return format.output(name, value);
  return Object.entries(value).map(([inner, each]) => `${named(inner, text)} ${plain(inner, each, format, text)}`).join(", ");
}

/** The most telling first. */
function inOrder(data: Values, text: Text): Values {
  const order = Object.keys(text.about);
  const place = (name: string) => (order.includes(name) ? order.indexOf(name) : order.length);
  return Object.fromEntries(Object.entries(data).sort(([a], [b]) => place(a) - place(b)));
}

function named(name: string, text: Text): string {
  return text.about[name] ?? name.replaceAll("_", " ");
}

export function Events({ state }: { state: State }) {
  const { text, format } = useLanguage();
  return (
    <section class="card events" aria-labelledby="events-title">
      <header>
        <h2 id="events-title">{text.events}</h2>
      </header>
      {state.events.length === 0 ? (
        <p class="quiet empty">{text.noEvents}</p>
      ) : (
        <ol class="scroll" tabIndex={0} aria-labelledby="events-title">
          {state.events.map((event) => (
            <li key={event.id}>
              <time>{format.moment(event.time)}</time>
              <span>
                <b>{text.happened[event.kind] ?? event.kind.replaceAll("_", " ")}</b>{" "}
                <span class="quiet">{plain("", inOrder(event.data, text), format, text)}</span>
              </span>
            </li>
          ))}
        </ol>
      )}
    </section>
  );
}
