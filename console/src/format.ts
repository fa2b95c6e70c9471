// Numbers, times and names as a person of that language writes them.

import type { Value } from "./types";

export const SHORT_DIGEST = 8;
export const DASH = "–";

export interface Formats {
  number(value: number | null | undefined, digits?: number): string;
  signed(value: number | null | undefined, digits?: number): string;
  percent(value: number | null | undefined, digits?: number): string;
  signedPercent(value: number | null | undefined, digits?: number): string;
  pvalue(value: number): string;
  milliseconds(seconds: number | null | undefined): string;
  duration(seconds: number | null | undefined): string;
  moment(time: number): string;
  output(name: string, value: Value): string; // true and false in words
}

export function short(digest: string | null | undefined): string {
  return digest ? digest.slice(0, SHORT_DIGEST) : DASH;
}

/** `yes` and `no`: how the language says true and false. */
export function formats(language: string, yes: string, no: string): Formats {
  const fixed = (digits: number, sign: "auto" | "exceptZero", style: "decimal" | "percent") =>
    new Intl.NumberFormat(language, {
      minimumFractionDigits: digits, maximumFractionDigits: digits, signDisplay: sign, style,
    });
  const write = (value: number | null | undefined, format: Intl.NumberFormat) =>
    value == null ? DASH : format.format(value).replace("-", "−");
  const time = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const date = new Intl.DateTimeFormat(language, { day: "numeric", month: "short" });
  const whole = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
  const four = new Intl.NumberFormat(language, { maximumSignificantDigits: 4 });

  const scientific = (value: number): string => {
    const [digits = "", power = ""] = value.toExponential(1).split("e");
    const raised = [...power].map((sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"["0123456789".indexOf(sign)] ?? (sign === "-" ? "⁻" : ""));
    return `${write(Number(digits), fixed(1, "auto", "decimal"))}·10${raised.join("")}`;
  };
  const output = (name: string, value: Value): string => {
    if (typeof value === "string") return /^[0-9a-f]{40,}$/.test(value) ? short(value) : value;
    if (typeof value === "boolean") return value ? yes : no;
    if (typeof value !== "number") return value === null ? DASH : JSON.stringify(value);
    if (name.endsWith("bytes")) return `${write(value / 2 ** 20, fixed(2, "auto", "decimal"))} MiB`;
    if (name.endsWith("_ms")) return `${write(value, fixed(2, "auto", "decimal"))} ms`;
    if (Number.isInteger(value)) return whole.format(value);
    if (/per_byte$|_(before|after|loss)$/.test(name)) return write(value, fixed(3, "auto", "decimal"));
    return Math.abs(value) < 1e-3 ? scientific(value) : write(value, four);
  };

  return {
    number: (value, digits = 3) => write(value, fixed(digits, "auto", "decimal")),
    signed: (value, digits = 3) => write(value, fixed(digits, "exceptZero", "decimal")),
    percent: (value, digits = 1) => write(value, fixed(digits, "auto", "percent")),
    signedPercent: (value, digits = 1) => write(value, fixed(digits, "exceptZero", "percent")),
    pvalue: (value) => {
      if (value >= 0.001) return write(value, fixed(value < 0.1 ? 3 : 2, "auto", "decimal"));
      return scientific(value);
    },
    milliseconds: (seconds) =>
      seconds == null ? DASH : `${write(seconds * 1000, fixed(seconds < 0.01 ? 1 : 0, "auto", "decimal"))} ms`,
    duration: (seconds) => {
      if (seconds == null) return DASH;
      if (seconds < 9.95) return `${write(seconds, fixed(1, "auto", "decimal"))} s`;
      const whole = Math.round(seconds);
      const two = (value: number) => String(Math.floor(value)).padStart(2, "0");
      if (whole < 60) return `${whole} s`;
      if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
      return `${Math.floor(whole / 3600)} h ${two((whole % 3600) / 60)} min`;
    },
    moment: (moment) => {
      const when = new Date(moment * 1000);
      const today = when.toDateString() === new Date().toDateString();
      return today ? time.format(when) : `${date.format(when)}, ${time.format(when)}`;
    },
    output,
  };
}
