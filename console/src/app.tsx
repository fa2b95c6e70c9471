// The page: head, alarms, and six cards.

import { Chat } from "./chat";
import { Curve } from "./curve";
import { Duel } from "./duel";
import { short } from "./format";
import { Decisions, Events } from "./history";
import { Speak, useLanguage } from "./language";
import { alarmGauge, type Live, useLive } from "./live";
import { chooseLife } from "./life";
import { Loop } from "./loop";
import { Metrics } from "./metrics";
import { SignIn } from "./sign-in";
import { type Language, LANGUAGES } from "./text";
import type { State } from "./types";

export function App() {
  return (
    <Speak>
      <Page />
    </Speak>
  );
}

function Page() {
  const { text } = useLanguage();
  const live = useLive();
  const { state } = live;
  return (
    <>
      <a class="skip" href="#loop">{text.skip}</a>
      <Head state={state} />
      {!live.denied && <Warnings live={live} />}
      {live.denied ? (
        <SignIn />
      ) : state ? (
        <main>
          <Loop state={state} />
          <Duel state={state} />
          <Curve state={state} curves={live.curves} />
          <Metrics state={state} samples={live.samples} />
          <Chat ready={Boolean(state.serving.digest || state.serving.asleep)} />
          <Events state={state} />
          <Decisions state={state} />
        </main>
      ) : (
        <p class="quiet loading">{text.loading}</p>
      )}
    </>
  );
}

function Head({ state }: { state: State | null }) {
  const { text, language, choose } = useLanguage();
  const world = state?.world;
  return (
    <header class="head">
      <h1>
        <img src="/console/leaf.svg" alt="" width="26" height="26" />
        Oliveira
      </h1>
      {world && (
        <p class="quiet">
          {text.world} <b>{world.name}</b>
          <span class="wide">: {world.task ?? `${world.sources.base} → ${world.sources.new}`}</span>
        </p>
      )}
      {state && <Lives state={state} />}
      {state && <Served state={state} />}
      <nav aria-label={text.language}>
        {(Object.keys(LANGUAGES) as Language[]).map((each) => (
          <button type="button" lang={each} aria-pressed={each === language} onClick={() => choose(each)}>
            {LANGUAGES[each].name}
          </button>
        ))}
      </nav>
    </header>
  );
}

function Lives({ state }: { state: State }) {
  const { text } = useLanguage();
  const { model, models } = state.serving;
  const names = Object.keys(models ?? {});
  if (names.length < 2) return null;
  return (
    <label class="quiet lives">
      {text.life}{" "}
      <select value={model} onChange={(event) => chooseLife(event.currentTarget.value)}>
        {names.map((name) => <option key={name} value={name}>{name}</option>)}
      </select>
    </label>
  );
}

function Served({ state }: { state: State }) {
  const { text } = useLanguage();
  const { digest, failure, asleep } = state.serving;
  const { champion } = state.aliases;
  const changing = Boolean(digest && champion && digest !== champion);
  const said = changing ? text.swapping : digest ? text.serving : asleep ? text.asleep : champion ? text.starting : text.noModel;
  return (
    <p class={`served ${changing ? "busy" : digest ? "good" : "idle"}`} title={failure ?? undefined}>
      <i /> {said} <span class="mono">{short(digest ?? champion)}</span>
      {changing && <span class="mono"> → {short(champion)}</span>}
      <span class="quiet wide">v{state.version}</span>
    </p>
  );
}

function Warnings({ live }: { live: Live }) {
  const { text } = useLanguage();
  const alarm = live.state && alarmGauge(live.state.gauges);
  return (
    <>
      <div role="alert">{!live.connected && live.state && <p class="warning lost">{text.offline}</p>}</div>
      <div role="alert">
        {alarm && <p class="warning">{text.alarm}</p>}
      </div>
    </>
  );
}
