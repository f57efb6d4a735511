// Counts as rates and shares, as `conduit stat` has them, and how they are written. Pure.

import type { Answered, Ref, Stats } from "./wire";

export interface Figures {
  /** From 0 to 1. */
  success: number;
  rps: number;
  /** From 0 to 1. */
  tls: number;
  /** Microseconds. */
  p50: number;
  p95: number;
  p99: number;
}

/** Nothing without requests, or without a time that they were counted in. */
export function figures(stats: Stats | null | undefined): Figures | null {
  if (!stats) return null;
  const total = Number(stats.successCount) + Number(stats.failureCount);
  if (total === 0 || stats.windowMs === 0) return null;
  return {
    success: Number(stats.successCount) / total,
    rps: (total * 1000) / stats.windowMs,
    tls: Number(stats.tlsCount) / total,
    p50: Number(stats.latencyP50Us),
    p95: Number(stats.latencyP95Us),
    p99: Number(stats.latencyP99Us),
  };
}

/** As `conduit stat` says it. */
export function whatIsMissing(of: Answered): string[] {
  const missing: string[] = [];
  if (of.replicasAnswered < of.replicasTotal) {
    const outdated = of.replicasOutdated > 0 ? `, ${of.replicasOutdated} of an older release cannot` : "";
    missing.push(`${of.replicasAnswered} of ${of.replicasTotal} controllers answered${outdated}: the figures are partial.`);
  }
  if (of.coveredMs < of.windowMs) {
    const known = of.coveredMs < 60_000 ? `${Math.floor(of.coveredMs / 1000)} s` : `${Math.floor(of.coveredMs / 60_000)} min`;
    missing.push(
      of.sinceStart
        ? `The figures are of the last ${known}: the control plane has not been counting for longer.`
        : `Of some traffic no more than ${known} is known: the figures are partial.`,
    );
  }
  if (of.latencyWindowMs && of.latencyWindowMs < of.coveredMs) {
    missing.push(`Percentiles are of the last ${Math.floor(of.latencyWindowMs / 60_000)} min: between two pods those of older requests are not kept.`);
  }
  if (of.truncated) missing.push("There is more than is shown: what has the least traffic is left out.");
  return missing;
}

export const NONE = "–";

export const percent = (share: number): string => `${(share * 100).toFixed(2)}%`;
export const wholePercent = (share: number): string => `${(share * 100).toFixed(0)}%`;
export const rate = (rps: number): string => rps.toFixed(rps >= 100 ? 0 : 1);

export function latency(us: number): string {
  if (us < 1000) return `${us} µs`;
  if (us < 1_000_000) return `${(us / 1000).toFixed(1)} ms`;
  return `${(us / 1_000_000).toFixed(2)} s`;
}

/** Of many: it is not known of what nobody has answered. */
export const percentile = (us: number): string => (us > 0 ? latency(us) : NONE);

export type Health = "good" | "fair" | "bad" | "none";

/** Where eyes should go first: a failure in a hundred is worth a look, one in twenty is trouble. */
export function health(success: number | undefined): Health {
  if (success === undefined) return "none";
  if (success >= 0.99) return "good";
  return success >= 0.95 ? "fair" : "bad";
}

export const nameOf = (ref: Ref): string => (ref.namespace ? `${ref.namespace}/${ref.name}` : ref.name);

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const date = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

export const timeOfDay = (ms: number): string => clock.format(ms);

export function moment(ms: string | number): string {
  const at = Number(ms);
  return at === 0 ? NONE : `${date.format(at)} ${clock.format(at)}`;
}

/** How far away a moment is: `in 23 h`, `3 min ago`. */
export function distance(ms: string | number, now: number = Date.now()): string {
  const at = Number(ms);
  if (at === 0) return NONE;
  const seconds = Math.abs(at - now) / 1000;
  // From so many seconds on, in units of so many.
  const units: [number, number, string][] = [
    [86_400 * 730, 86_400 * 365, "years"],
    [86_400 * 2, 86_400, "d"],
    [3600, 3600, "h"],
    [60, 60, "min"],
  ];
  const [, size, unit] = units.find(([from]) => seconds >= from) ?? [0, 1, "s"];
  const text = `${Math.floor(seconds / size)} ${unit}`;
  return at >= now ? `in ${text}` : `${text} ago`;
}

export function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? count : count.toFixed(1)} ${units[unit]}`;
}

/** An address of protobuf's bytes, which JSON has in base64. */
export function socketAddress(address: { ip: string; port: number } | null | undefined): string {
  if (!address) return "";
  const octets = [...atob(address.ip)].map((c) => c.charCodeAt(0));
  if (octets.length === 4) return `${octets.join(".")}:${address.port}`;
  const groups = Array.from({ length: octets.length / 2 }, (_, i) =>
    (((octets[2 * i] ?? 0) << 8) | (octets[2 * i + 1] ?? 0)).toString(16),
  );
  return `[${groups.join(":").replace(/(^|:)0(:0)+(:|$)/, "::")}]:${address.port}`;
}
