// What several pages show alike.

import type { ComponentChildren } from "preact";

import { useContext } from "preact/hooks";

import { SERVED_BY } from "./api";
import { type Figures, figures, health, nameOf, NONE, percent, percentile, rate, timeOfDay, wholePercent, whatIsMissing } from "./figures";
import type { Live } from "./live";
import { KINDS, linkTo } from "./route";
import { isOfTheMesh, Scope } from "./scope";
import type { Column } from "./table";
import type { Answered, Parts, Ref, Stats } from "./wire";

/** With its namespace, where several are in one column. */
export function Link({ to, full = false }: { to: Ref; full?: boolean }) {
  const name = full ? nameOf(to) : to.name;
  // Of other kinds there are no pages.
  return KINDS.includes(to.kind) ? <a href={linkTo(to.kind, to.namespace, to.name)}>{name}</a> : <span title={to.kind}>{name}</span>;
}

export function Success({ of }: { of: number | undefined }) {
  if (of === undefined) return <span class="dim">{NONE}</span>;
  return <span class={`success ${health(of)}`}>{percent(of)}</span>;
}

type Key = keyof Figures;

const figure = <Row,>(
  title: string,
  key: Key,
  write: (value: number) => string,
  of: (row: Row) => Figures | null,
): Column<Row> => ({
  title,
  numeric: true,
  value: (row) => of(row)?.[key] ?? null,
  show: (row) => {
    const value = of(row)?.[key];
    return value === undefined ? <span class="dim">{NONE}</span> : write(value);
  },
});

/** SR, RPS, P50, P95, P99, TLS. */
export function figureColumns<Row>(stats: (row: Row) => Stats | null | undefined): Column<Row>[] {
  const of = (row: Row) => figures(stats(row));
  return [
    { ...figure("SR", "success", percent, of), show: (row) => <Success of={of(row)?.success} /> },
    figure("RPS", "rps", rate, of),
    figure("P50", "p50", percentile, of),
    figure("P95", "p95", percentile, of),
    figure("P99", "p99", percentile, of),
    figure("TLS", "tls", wholePercent, of),
  ];
}

/** What there is instead of a part: why, and what to do. Nothing when there is the part. */
export function Missing({ live, part, what }: { live: Live; part: keyof Parts; what: string }) {
  const error = live.errors[part];
  const scope = useContext(Scope);
  if (scope && isOfTheMesh(part)) {
    return <p class="note dim">Within the namespace {scope} there is nothing to say of {what}: look at all namespaces for that.</p>;
  }
  if (error?.code === "UNIMPLEMENTED") {
    return (
      <p class="note">
        The control plane is older than this page and does not know {what}. Upgrade it to see them; <code>conduit version</code>{" "}
        says what runs.
      </p>
    );
  }
  if (live.parts[part]) return null;
  if (error) {
    return (
      <p class="note bad">
        {what} cannot be shown: {error.message}
      </p>
    );
  }
  return <p class="note dim">Loading {what}…</p>;
}

function WhyLost({ of }: { of: NonNullable<Live["lost"]> }) {
  const scope = useContext(Scope);
  return (
    <>
      {of.refusal?.message ?? (
        <>
          Is <code>{SERVED_BY}</code> still running?
        </>
      )}{" "}
      {of.refusal?.code === "PERMISSION_DENIED" && !scope && "Above, name a namespace to see that one alone. "}
      Trying again in {of.retryIn} s.
    </>
  );
}

/** Whether what is shown is as things are. */
export function Freshness({ live }: { live: Live }) {
  // A control plane that is older does not know everything, and one that has just started has no trust root.
  const isFine = (part: string, code: string) => code === "UNIMPLEMENTED" || (part === "ca" && code === "NOT_FOUND");
  const failed = Object.entries(live.errors).find(([part, error]) => !isFine(part, error.code))?.[1];
  const seen = live.at ? `What is shown is of ${timeOfDay(live.at)}.` : "";
  if (live.lost && live.at) {
    return (
      <p class="banner bad" role="status">
        <b>The connection is lost.</b> {seen} <WhyLost of={live.lost} />
      </p>
    );
  }
  if (live.lost) {
    return (
      <p class="banner bad" role="status">
        <b>There is no connection.</b> <WhyLost of={live.lost} />
      </p>
    );
  }
  if (failed) {
    return (
      <p class="banner bad" role="status">
        <b>The control plane does not answer all questions.</b> {failed.message}. Older figures stay until it does;{" "}
        <code>conduit check</code> says what is wrong.
      </p>
    );
  }
  return null;
}

export function Partial({ of }: { of: Answered | undefined }) {
  const missing = of ? whatIsMissing(of) : [];
  return missing.length === 0 ? null : <p class="note fair">{missing.join(" ")}</p>;
}

export function Section({ title, children, id }: { title: string; children: ComponentChildren; id?: string }) {
  return (
    <section class="section" id={id}>
      <h2>{title}</h2>
      {children}
    </section>
  );
}

export function Dot({ state, label }: { state: "good" | "fair" | "bad" | "none"; label: string }) {
  return <span class={`dot ${state}`} role="img" aria-label={label} title={label} />;
}

export function Tile({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div class="tile">
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
