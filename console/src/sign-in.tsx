// What a person without a key sees: one field. The server keeps the key in a cookie that no script reads.

import { useState } from "preact/hooks";
import { signIn } from "./api";
import { useLanguage } from "./language";
import { feed } from "./live";

/** The server sends a refused address (?key=…) back here without its key. */
const REFUSED = "?refused";

export function SignIn() {
  const { text } = useLanguage();
  const [key, setKey] = useState("");
  const [said, setSaid] = useState<"" | "wrong" | "silent">(location.search === REFUSED ? "wrong" : "");

  const open = async () => {
    try {
      if (!(await signIn(key.trim()))) return setSaid("wrong");
    } catch {
      return setSaid("silent");
    }
    history.replaceState(null, "", location.pathname);
    feed.again();
  };

  return (
    <main class="sign-in">
      <form
        class="card"
        aria-labelledby="sign-in-title"
        onSubmit={(event) => {
          event.preventDefault();
          void open();
        }}
      >
        <h2 id="sign-in-title">{text.signIn.title}</h2>
        <label for="key">{text.signIn.key}</label>
        <input
          id="key"
          type="password"
          autocomplete="off"
          spellcheck={false}
          placeholder="sk-oli-…"
          value={key}
          aria-invalid={said === "wrong"}
          onInput={(event) => setKey(event.currentTarget.value)}
        />
        <p class="bad" role="alert">{said && text.signIn[said]}</p>
        <div class="buttons">
          <button type="submit" class="main" disabled={!key.trim()}>{text.signIn.go}</button>
        </div>
        <p class="quiet">{text.signIn.hint}</p>
      </form>
    </main>
  );
}
