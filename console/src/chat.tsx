// A talk with the champion, streamed.

import { useEffect, useRef, useState } from "preact/hooks";
import { chat, type Said } from "./api";
import { useLanguage } from "./language";

export function Chat({ ready }: { ready: boolean }) {
  const { text, format } = useLanguage();
  const [said, setSaid] = useState<Said[]>([]);
  const [note, setNote] = useState("");
  const [stream, setStream] = useState<AbortController | null>(null);
  const field = useRef<HTMLTextAreaElement>(null);
  const log = useRef<HTMLDivElement>(null);

  useEffect(() => log.current?.scrollTo({ top: log.current.scrollHeight }), [said]);

  const send = async () => {
    const question = field.current?.value.trim();
    if (!question || stream || !field.current) return;
    field.current.value = "";
    const abort = new AbortController();
    const before: Said[] = [...said, { role: "user", content: question }];
    let answer = "";
    const begun = performance.now();
    let first: number | null = null;
    setStream(abort);
    setNote("");
    setSaid([...before, { role: "assistant", content: "" }]);
    try {
      const hear = (piece: string) => {
        first ??= performance.now();
        answer += piece;
        setSaid([...before, { role: "assistant", content: answer }]);
      };
      const tokens = await chat(before, hear, abort.signal);
      const spent = (performance.now() - begun) / 1000;
      const wait = first === null ? null : (first - begun) / 1000;
      setNote(
        [
          tokens !== null && `${tokens} ${text.tokens}, ${format.number(tokens / spent, 0)} ${text.perSecond}`,
          wait !== null && `${text.ttft} ${format.milliseconds(wait)}`,
        ].filter(Boolean).join(" · "),
      );
    } catch (error) {
      if (!abort.signal.aborted) setNote(error instanceof Error ? error.message : String(error));
      if (!answer) setSaid(before);
    } finally {
      setStream(null);
      field.current?.focus();
    }
  };

  return (
    <section class="card chat" aria-labelledby="chat-title">
      <header>
        <h2 id="chat-title">{text.chat}</h2>
        <p class="quiet" role="status">{note}</p>
      </header>
      <div class="said" ref={log} role="log" aria-busy={stream !== null} tabIndex={0} aria-label={text.chat}>
        {said.length === 0 && <p class="quiet empty">{text.chatEmpty}</p>}
        {said.map((each) => (
          <p class={each.role}>
            <span class="who">{each.role === "user" ? text.you : text.model}</span>
            {each.content}
            {stream && each === said.at(-1) && each.role === "assistant" && <i class="caret" />}
          </p>
        ))}
      </div>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void send();
        }}
      >
        <textarea
          ref={field}
          rows={2}
          aria-label={text.chatPlaceholder}
          placeholder={text.chatPlaceholder}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            void send();
          }}
        />
        {stream ? (
          <button type="button" onClick={() => stream.abort()}>{text.stop}</button>
        ) : (
          <button type="submit" class="main" disabled={!ready}>{text.send}</button>
        )}
      </form>
    </section>
  );
}
