// Every picture has its numbers as a table beneath it.

import type { ComponentChildren } from "preact";
import { useLanguage } from "./language";

export function AsTable({ caption, head, children }: { caption: string; head: string[]; children: ComponentChildren }) {
  const { text } = useLanguage();
  return (
    <details class="as-table">
      <summary>{text.table}</summary>
      <div class="scroll">
        <table>
          <caption>{caption}</caption>
          <thead>
            <tr>{head.map((name) => <th scope="col">{name}</th>)}</tr>
          </thead>
          <tbody>{children}</tbody>
        </table>
      </div>
    </details>
  );
}
