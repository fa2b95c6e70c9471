// The loop as the seed draws it: a ring of eight boxes; its middle tells what the chosen one made.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { useLanguage } from "./language";
import { ring } from "./loop-geometry";
import { inOrder, mainOutputs, type Node, nodes, spent } from "./loop-nodes";
import { AsTable } from "./as-table";
import type { Stage, State } from "./types";

const NAME_FONT = "600 13px"; // as `.box .name`

export function Loop({ state }: { state: State }) {
  const { text, format } = useLanguage();
  const [chosen, choose] = useState<Node["id"] | null>(null);
  const frame = useRef<HTMLDivElement>(null);
  const width = useWidth(frame);
  const all = nodes(state);
  const shown =
    all.find((node) => node.id === chosen) ??
    all.find((node) => node.state === "running") ??
    all.find((node) => node.id === "train" && node.state !== "waiting") ??
    null;
  const total = spent(state.stages, state.time);
  return (
    <section class="card loop" aria-labelledby="loop-title" id="loop" tabIndex={-1}>
      <header>
        <h2 id="loop-title">{text.loop}</h2>
        <p class="quiet">
          {total !== null && `${text.total} ${format.duration(total)}`}
        </p>
      </header>
      <div class="ring" ref={frame}>
        {width > 0 && <Ring width={width} all={all} shown={shown} choose={choose} time={state.time} />}
      </div>
      <StageTable state={state} />
    </section>
  );
}

function px(place: { x: number; y: number; width: number; height: number }) {
  return { left: `${place.x}px`, top: `${place.y}px`, width: `${place.width}px`, height: `${place.height}px` };
}

function useWidth(frame: { current: HTMLElement | null }): number {
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    if (!frame.current) return undefined;
    const watch = new ResizeObserver(([entry]) => entry && setWidth(Math.floor(entry.contentRect.width)));
    watch.observe(frame.current);
    return () => watch.disconnect();
  }, []);
  return width;
}

interface RingProps {
  width: number;
  all: Node[];
  shown: Node | null;
  choose: (id: Node["id"]) => void;
  time: number;
}

function Ring({ width, all, shown, choose, time }: RingProps) {
  const { text } = useLanguage();
  const shape = ring(width);
  const { middle } = shape;
  return (
    <>
      <svg width={shape.width} height={shape.height} role="group" aria-label={text.loop}>
        <defs>
          {["", "-live"].map((kind) => (
            <marker id={`tip${kind}`} class={`tip${kind}`} markerWidth="8" markerHeight="8" refX="1" refY="4" orient="auto" markerUnits="userSpaceOnUse">
              <path d="M0 0.5 7.5 4 0 7.5Z" />
            </marker>
          ))}
        </defs>
        {shape.arrows.map((path, i) => {
          const live = all[(i + 1) % all.length]?.state === "running";
          return <path class={live ? "arrow live" : "arrow"} d={path} marker-end={`url(#tip${live ? "-live" : ""})`} />;
        })}
        {all.map((node, i) => {
          const place = shape.boxes[i];
          return place && <Box node={node} place={place} size={shape.box} pressed={node === shown} choose={choose} />;
        })}
      </svg>
      <div
        class={middle ? "middle inside" : "middle"}
        style={middle ? px(middle) : undefined}
        tabIndex={0}
        role="region"
        aria-label={text.output}
      >
        {shown ? shown.stages.map((stage) => <Details stage={stage} time={time} />) : <p class="quiet hint">{text.loopHint}</p>}
      </div>
    </>
  );
}

interface BoxProps {
  node: Node;
  place: { x: number; y: number };
  size: { width: number; height: number };
  pressed: boolean;
  choose: (id: Node["id"]) => void;
}

function Box({ node, place, size, pressed, choose }: BoxProps) {
  const { text, format } = useLanguage();
  const name = text.nodes[node.id];
  const room = size.width - 42;
  const lines = wrapped(name, room);
  const told = node.seconds === null ? text.states[node.state] : `${text.states[node.state]} · ${format.duration(node.seconds)}`;
  const act = () => choose(node.id);
  return (
    <g
      class={`box ${node.state}${pressed ? " pressed" : ""}`}
      transform={`translate(${place.x} ${place.y})`}
      role="button"
      tabIndex={0}
      aria-pressed={pressed}
      aria-label={`${name} ${told}`}
      data-stage={node.id}
      data-state={node.state}
      onClick={act}
      onFocus={act}
      onKeyDown={(event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        act();
      }}
    >
      <rect x="0.5" y="0.5" width={size.width - 1} height={size.height - 1} rx="9" />
      <Mark state={node.state} />
      <text class="name" x="34" y={lines.length > 1 ? 20 : 28}>
        {lines.map((line, i) => (
          // A word that is wider than its box is drawn narrower.
          <tspan x="34" dy={i ? 15 : 0} textLength={drawn(line) > room ? room : undefined} lengthAdjust="spacingAndGlyphs">
            {`${line} `}
          </tspan>
        ))}
      </text>
      <text class="told" x="34" y={lines.length > 1 ? 53 : 46}>{told}</text>
    </g>
  );
}

/** Pixels of a text in a box, in the font that this browser has. */
function drawn(text: string): number {
  const pen = (ruler ??= document.createElement("canvas").getContext("2d"));
  if (!pen) return 0;
  pen.font = `${NAME_FONT} ${getComputedStyle(document.body).fontFamily}`;
  return pen.measureText(text).width;
}

let ruler: CanvasRenderingContext2D | null = null;

/** Words in lines of at most so many pixels. */
function wrapped(name: string, room: number): string[] {
  return name.split(" ").reduce<string[]>((lines, word) => {
    const last = lines.at(-1);
    return last !== undefined && drawn(`${last} ${word}`) <= room ? [...lines.slice(0, -1), `${last} ${word}`] : [...lines, word];
  }, []);
}

/** The state as a shape, so that nobody needs the colour. */
function Mark({ state }: { state: Stage["state"] }) {
  return (
    <g class="mark" transform="translate(18 24)">
      <circle r="7.5" />
      {state === "done" && <path d="M-3.4 0.2-0.9 2.8 3.6-2.6" />}
      {state === "failed" && <path d="M-2.8-2.8 2.8 2.8M2.8-2.8-2.8 2.8" />}
      {state === "running" && <path class="turning" d="M0-7.5A7.5 7.5 0 0 1 7.5 0" />}
    </g>
  );
}

function Details({ stage, time }: { stage: Stage; time: number }) {
  const { text, format } = useLanguage();
  const outputs = inOrder(mainOutputs(stage), text);
  const title = text.stages[stage.name as keyof typeof text.stages] ?? stage.name;
  return (
    <div class="details">
      <h3>
        {title} <span class="quiet">{text.states[stage.state]}, {format.duration(spent([stage], time))}</span>
      </h3>
      {stage.message && <p class="bad">{stage.message}</p>}
      {outputs.length === 0 && !stage.message && <p class="quiet">{text.nothingYet}</p>}
      <dl>
        {outputs.map(([name, value]) => (
          <div>
            <dt>{text.outputs[name] ?? name.replaceAll("_", " ")}</dt>
            <dd title={String(value)}>{format.output(name, value)}</dd>
          </div>
        ))}
      </dl>
    </div>
  );
}

function StageTable({ state }: { state: State }) {
  const { text, format } = useLanguage();
  return (
    <AsTable caption={text.loop} head={[text.stage, text.state, text.time, text.output]}>
      {state.stages.map((stage) => (
        <tr data-row={stage.name}>
          <th scope="row">{text.stages[stage.name as keyof typeof text.stages] ?? stage.name}</th>
          <td>{text.states[stage.state]}</td>
          <td class="figure">{format.duration(spent([stage], state.time))}</td>
          <td>
            {inOrder(Object.entries(stage.outputs), text)
              .map(([name, value]) => `${text.outputs[name] ?? name.replaceAll("_", " ")} ${format.output(name, value)}`)
              .join(" · ")}
            {stage.message}
          </td>
        </tr>
      ))}
    </AsTable>
  );
}
