// The operator's five verbs. Each writes a wish; what became of it is asked for and told.

import { useRef, useState } from "preact/hooks";
import { getWish, makeWish, type Verb } from "./api";
import { short } from "./format";
import { useLanguage } from "./language";
import type { State } from "./types";

const ASK_MS = 500;

interface Asked {
  key: number;
  name: keyof ReturnType<typeof useLanguage>["text"]["actions"];
  state: "sent" | "pending" | "done" | "failed";
  note: string;
}

/** `refused`: the gate said no to the challenger; approving it all the same is asked back, like a roll-back. */
export function Actions({ state, refused }: { state: State; refused: boolean }) {
  const { text } = useLanguage();
  const [asked, setAsked] = useState<Asked[]>([]);
  const [doubt, setDoubt] = useState<"approve" | "rollback">("rollback");
  const dialog = useRef<HTMLDialogElement>(null);
  const { challenger, previous, champion } = state.aliases;

  const ask = async (name: Asked["name"], verb: Verb, args: Record<string, unknown> = {}) => {
    const key = Date.now();
    const tell = (next: Asked["state"], note = "") =>
      setAsked((all) => [...all.filter((each) => each.key !== key), { key, name, state: next, note }].slice(-3));
    tell("sent");
    try {
      const id = await makeWish(verb, args);
      for (;;) {
        const wish = await getWish(id);
        const said = wish.result && (wish.result.error ?? wish.result.message ?? wish.result.reason);
        tell(wish.state, said ? String(said) : `#${id}`);
        if (wish.state !== "pending") return;
        await new Promise((wake) => setTimeout(wake, ASK_MS));
      }
    } catch (error) {
      tell("failed", error instanceof Error ? error.message : String(error));
    }
  };

  // Against the gate only after the dialog, which is the reason that is kept.
  const override = refused ? { override: "confirmed in the console" } : {};
  const approve = () => void ask("approve", "approve", { digest: challenger, ...override });
  const askBack = (verb: "approve" | "rollback") => {
    setDoubt(verb);
    dialog.current?.showModal();
  };

  return (
    <div class="actions">
      <div class="buttons">
        <button type="button" class={refused ? "" : "main"} disabled={!challenger} onClick={refused ? () => askBack("approve") : approve}>
          {text.actions.approve}
        </button>
        <button type="button" disabled={!challenger} onClick={() => void ask("reject", "reject", { digest: challenger })}>
          {text.actions.reject}
        </button>
        <span class="gap" />
        <button type="button" onClick={() => void ask("retrain", "retrain")}>{text.actions.retrain}</button>
        <button
          type="button"
          aria-pressed={state.paused}
          onClick={() => void ask(state.paused ? "resume" : "pause", "pause", { paused: !state.paused })}
        >
          {state.paused ? text.actions.resume : text.actions.pause}
        </button>
        <button type="button" class="danger" disabled={!previous} onClick={() => askBack("rollback")}>
          {text.actions.rollback}
        </button>
      </div>
      <div class="outcomes" role="status">
        {state.paused && <p class="quiet">{text.pausedNote}</p>}
        {asked.map((each) => (
          <p key={each.key} class={each.state}>
            {text.actions[each.name]}: {text.wish[each.state]} <span class="quiet">{each.note}</span>
          </p>
        ))}
      </div>
      <dialog ref={dialog} aria-labelledby="confirm-title">
        <form
          method="dialog"
          onSubmit={(event) => {
            const button = (event as SubmitEvent).submitter as HTMLButtonElement | null;
            if (button?.value !== "yes") return;
            if (doubt === "approve") approve();
            else void ask("rollback", "rollback");
          }}
        >
          <h2 id="confirm-title">{text.confirm[doubt].title}</h2>
          <p>
            {text.champion} <span class="mono">{short(champion)}</span> → <span class="mono strong">{short(doubt === "approve" ? challenger : previous)}</span>
          </p>
          <p class="quiet">{text.confirm[doubt].text}</p>
          <div class="buttons">
            <button type="submit" value="no" autofocus>{text.cancel}</button>
            <button type="submit" value="yes" class="danger">{text.actions[doubt]}</button>
          </div>
        </form>
      </dialog>
    </div>
  );
}
