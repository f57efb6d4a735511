import { figureColumns, Missing, Partial, Section } from "../bits";
import type { Live } from "../live";
import { Table } from "../table";
import type { HeaderEdits, HttpRoute, RouteRule, Stat, StatRow } from "../wire";

/** What is configured of the Gateway API. */
export function Routes({ live }: { live: Live }) {
  const routes = live.parts.routes;
  return (
    <>
      <h1>Routes</h1>
      {routes ? (
        <Table
          caption="Routes"
          columns={[
            { title: "NAMESPACE", value: (route: HttpRoute) => route.namespace },
            { title: "NAME", value: (route) => route.name },
            { title: "SERVICES", value: (route) => route.parents.map(parent).join(", ") },
            { title: "RULES", value: (route) => route.rules.length, show: (route) => <Rules rules={route.rules} />, wide: true },
          ]}
          rows={routes.routes}
          rowKey={(route) => `${route.namespace}/${route.name}`}
          filter={(route) => [route.namespace, route.name, ...route.parents.map(parent)].join(" ")}
          empty={
            <>
              No route is configured: every request goes to the service that it asks for. <code>conduit apply -f FILE --wait</code> takes
              HTTPRoutes of the Gateway API whose parents are Services.
            </>
          }
        />
      ) : (
        <Missing live={live} part="routes" what="routes" />
      )}
      <Section title="Traffic">{live.parts.stat ? <Traffic stat={live.parts.stat} /> : <Missing live={live} part="stat" what="traffic of routes" />}</Section>
    </>
  );
}

/** What clients saw of each route: requests are of the service that they were for. */
function Traffic({ stat }: { stat: Stat }) {
  const rows = stat.rows.filter((row) => row.group?.route || row.stats);
  return (
    <>
      <Partial of={stat} />
      <Table
        caption="Traffic of routes"
        columns={[
          { title: "SERVICE", value: (row: StatRow) => row.group?.service ?? "" },
          { title: "ROUTE", value: (row) => row.group?.route ?? "", show: (row) => row.group?.route || <span class="dim">none</span> },
          ...figureColumns<StatRow>((row) => row.stats),
        ]}
        rows={rows}
        rowKey={(row) => `${row.group?.service}/${row.group?.route}`}
        filter={(row) => `${row.group?.service} ${row.group?.route}`}
        empty="No proxy has asked for a service in this time."
      />
    </>
  );
}

const parent = ({ service, port }: HttpRoute["parents"][number]): string => (port ? `${service}:${port}` : service);

function Rules({ rules }: { rules: RouteRule[] }) {
  return (
    <ol class="rules">
      {rules.map((rule, i) => (
        <li key={i}>
          <span class="match">{rule.matches.map(match).join(" or ") || "every request"}</span>
          <span class="dim"> → </span>
          {backends(rule)}
          {policies(rule).map((policy) => (
            <div key={policy} class="dim">
              {policy}
            </div>
          ))}
        </li>
      ))}
    </ol>
  );
}

function match({ exact, prefix, method, headers, query }: RouteRule["matches"][number]): string {
  // The prefix of every path is empty.
  const path = exact !== undefined ? `= ${exact}` : prefix ? `${prefix}…` : "";
  const asked = query.map(({ name, value }) => `?${name}=${value}`);
  return [method, path, ...asked, ...headers.map(({ name, value }) => `${name}: ${value}`)].filter(Boolean).join(" ") || "every request";
}

/** Where its requests go, each with its share where there are several. */
function backends({ backends, unresolved, filters }: RouteRule): string {
  if (filters?.redirect) return redirected(filters.redirect);
  const nowhere = "nowhere (500)";
  const shares = backends.map(({ service, port, weight }) => ({ to: `${service}:${port}`, weight }));
  if (unresolved > 0) shares.push({ to: nowhere, weight: unresolved });
  const total = shares.reduce((sum, { weight }) => sum + weight, 0);
  if (total === 0) return nowhere;
  return shares.map(({ to, weight }) => (shares.length > 1 ? `${to} ${((weight / total) * 100).toFixed(0)}%` : to)).join(", ");
}

function redirected({ scheme, hostname, port, full, prefix, status }: NonNullable<NonNullable<RouteRule["filters"]>["redirect"]>): string {
  const path = full ?? (prefix === undefined ? undefined : `${prefix}…`);
  const changed = [scheme && `scheme ${scheme}`, hostname && `host ${hostname}`, port && `port ${port}`, path && `path ${path}`];
  return `redirect ${status}: ${changed.filter(Boolean).join(", ") || "to itself"}`;
}

/** What else becomes of its requests. */
function policies({ timeouts, filters }: RouteRule): string[] {
  const late = (what: string, ms: string | undefined) => (Number(ms) > 0 ? [`504 after ${ms} ms${what}`] : []);
  return [
    ...late("", timeouts?.requestMs),
    ...late(" of an attempt", timeouts?.backendRequestMs),
    ...edits("request", filters?.requestHeaders),
    ...edits("response", filters?.responseHeaders),
  ];
}

function edits(of: string, edits: HeaderEdits | null | undefined): string[] {
  if (!edits) return [];
  const { set, add, remove } = edits;
  return [
    ...set.map(({ name, value }) => `${of} header ${name} = ${value}`),
    ...add.map(({ name, value }) => `${of} header ${name} + ${value}`),
    ...remove.map((name) => `${of} without header ${name}`),
  ];
}
