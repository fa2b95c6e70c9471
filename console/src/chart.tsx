// uPlot in the colours of the page; drawn anew when the shape of the data, the language or the scheme changes.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

export type Columns = (number | null | undefined)[][];

export interface Line {
  label: string;
  colour: string; // a custom property of the style sheet, such as "--olive"
  scale?: string;
  points?: boolean;
  dash?: number[];
  fill?: boolean;
}

export interface ChartProps {
  label: string;
  columns: Columns; // x first
  lines: Line[];
  height: number;
  bare?: boolean; // a spark line: no axes
  axes?: { scale: string; side: "left" | "right"; colour: string }[];
  range?: Record<string, (low: number, high: number) => [number, number]>;
}

const FONT = '11px "Helvetica Neue", Arial, sans-serif';

export function Chart(props: ChartProps) {
  const frame = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const scheme = useScheme();
  const shape = JSON.stringify([props.lines, props.axes, props.height, scheme]);
  useEffect(() => {
    const place = frame.current;
    if (!place) return undefined;
    const made = new uPlot(options(props, place), props.columns as uPlot.AlignedData, place);
    plot.current = made;
    const watch = new ResizeObserver(() => made.setSize({ width: place.clientWidth, height: props.height }));
    watch.observe(place);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(props.columns as uPlot.AlignedData), [props.columns]);
  return <div class="chart" ref={frame} role="img" aria-label={props.label} style={{ height: `${props.height}px` }} />;
}

function useScheme(): boolean {
  const query = matchMedia("(prefers-color-scheme: dark)");
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const hear = (event: MediaQueryListEvent) => setDark(event.matches);
    query.addEventListener("change", hear);
    return () => query.removeEventListener("change", hear);
  }, []);
  return dark;
}

function options(props: ChartProps, place: HTMLElement): uPlot.Options {
  const colour = (name: string) => getComputedStyle(place).getPropertyValue(name).trim();
  const quiet = { stroke: colour("--muted"), font: FONT, ticks: { show: false } };
  const axes: uPlot.Axis[] = props.bare
    ? [{ show: false }, { show: false }]
    : [
        { ...quiet, grid: { show: false }, size: 22, gap: 4 },
        ...(props.axes ?? []).map(({ scale, side, colour: name }, i) => ({
          ...quiet,
          stroke: colour(name),
          scale,
          side: side === "left" ? (3 as const) : (1 as const),
          size: 36,
          gap: 4,
          space: 34,
          grid: { show: i === 0, stroke: colour("--line"), width: 1 },
        })),
      ];
  const scales: uPlot.Scales = { x: { time: false } };
  for (const [name, range] of Object.entries(props.range ?? {})) {
    scales[name] = { range: (_, low, high) => range(low ?? 0, high ?? 1) };
  }
  return {
    width: place.clientWidth,
    height: props.height,
    padding: props.bare ? [3, 0, 2, 0] : [8, 12, 0, 4],
    legend: { show: false },
    cursor: { show: !props.bare, y: false, drag: { x: false, y: false } },
    scales,
    axes,
    series: [
      {},
      ...props.lines.map((line) => ({
        label: line.label,
        stroke: colour(line.colour),
        width: line.dash ? 1 : 1.6,
        scale: line.scale ?? "y",
        spanGaps: true,
        points: { show: line.points ?? false, size: 6, fill: colour("--card"), width: 1.6 },
        ...(line.dash ? { dash: line.dash } : {}),
        ...(line.fill ? { fill: `${colour(line.colour)}22` } : {}),
      })),
    ],
  };
}
