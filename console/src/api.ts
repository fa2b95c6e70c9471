// What the page asks of the server: wishes of the operator, and the chat.

import { chosenLife, ofLife } from "./life";
import type { Wish } from "./types";

const HEADERS = { "Content-Type": "application/json", "X-Oliveira": "console" };

export type Verb = "approve" | "reject" | "rollback" | "pause" | "retrain";

async function refusal(response: Response): Promise<Error> {
  const body: unknown = await response.json().catch(() => null);
  const found = body as { error?: { message?: string }; detail?: unknown } | null;
  const said = found?.error?.message ?? (typeof found?.detail === "string" ? found.detail : null);
  return new Error(said ?? `${response.status} ${response.statusText}`);
}

export async function makeWish(verb: Verb, args: Record<string, unknown>): Promise<number> {
  const response = await fetch(ofLife(`/admin/${verb}`), { method: "POST", headers: HEADERS, body: JSON.stringify(args) });
  if (!response.ok) throw await refusal(response);
  return ((await response.json()) as { wish: number }).wish;
}

/** True when the server takes the key and remembers it for this browser session. Throws when it does not answer. */
export async function signIn(key: string): Promise<boolean> {
  // A header takes ASCII only, and so does a key.
  if (!/^[\x21-\x7e]+$/.test(key)) return false;
  const response = await fetch("/console/session", { method: "POST", headers: { ...HEADERS, Authorization: `Bearer ${key}` } });
  return response.ok;
}

export async function getWish(id: number): Promise<Wish> {
  const response = await fetch(ofLife(`/admin/wishes/${id}`));
  if (!response.ok) throw await refusal(response);
  return (await response.json()) as Wish;
}

export interface Said {
  role: "user" | "assistant";
  content: string;
}

interface Chunk {
  error?: { message: string };
  choices?: { delta?: { content?: string | null } }[];
  usage?: { completion_tokens: number } | null;
}

/** Streams an answer: `hear` gets each piece of text. Returns the number of tokens, if the server tells it. */
export async function chat(messages: Said[], hear: (piece: string) => void, signal: AbortSignal): Promise<number | null> {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: HEADERS,
    signal,
    body: JSON.stringify({
      model: await servedModel(signal),
      messages,
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: 120,
      temperature: 0.8,
    }),
  });
  if (!response.ok || !response.body) throw await refusal(response);
  let tokens: number | null = null;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error) throw new Error(chunk.error.message);
    const piece = chunk.choices?.[0]?.delta?.content;
    if (piece) hear(piece);
    tokens = chunk.usage?.completion_tokens ?? tokens;
  }
  return tokens;
}

async function servedModel(signal: AbortSignal): Promise<string> {
  const chosen = chosenLife();
  if (chosen !== null) return chosen;
  const response = await fetch("/v1/models", { signal });
  if (!response.ok) throw await refusal(response);
  const found = (await response.json()) as { data: { id: string }[] };
  return found.data[0]?.id ?? "oliveira";
}

/** The `data:` of each server-sent event of a body. */
async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop() ?? "";
      for (const part of parts) {
        for (const line of part.split(/\r?\n/)) if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
