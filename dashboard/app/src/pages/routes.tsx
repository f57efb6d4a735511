import { figureColumns, Missing, Partial, Section } from "../bits";
import type { Live } from "../live";
import { Table } from "../table";
import type { HttpRoute, RouteRule, Stat, StatRow } from "../wire";

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
        </li>
      ))}
    </ol>
  );
}

function match({ exact, prefix, method, headers }: RouteRule["matches"][number]): string {
  const path = exact !== undefined ? `= ${exact}` : prefix !== undefined ? `${prefix}…` : "";
  return [method, path, ...headers.map(({ name, value }) => `${name}: ${value}`)].filter(Boolean).join(" ") || "every request";
}

function backends({ backends }: RouteRule): string {
  const total = backends.reduce((sum, backend) => sum + backend.weight, 0);
  if (total === 0) return "nowhere (500)";
  return backends.map(({ service, port, weight }) => `${service}:${port}${backends.length > 1 ? ` ${((weight / total) * 100).toFixed(0)}%` : ""}`).join(", ");
}
