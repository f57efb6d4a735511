const COMMANDS: [string, string][] = [
  ["conduit stat deploy -A", "success rate, requests per second and latencies, as in Deployments"],
  ["conduit tap deploy NAMESPACE/NAME", "requests as they pass, as in Tap"],
  ["conduit explain deploy/web svc/voting:8080", "why a request goes where it goes, decision by decision"],
  ["conduit apply -f FILE --wait", "routes of the Gateway API; returns when no request goes the old way"],
  ["conduit history", "who changed what, as in Events; rollback takes it back"],
  ["conduit raft status", "the replicas, as in Control plane"],
  ["conduit ca status", "roots, issuers, expiries; ca rotate replaces the root under traffic"],
  ["conduit check", "whether everything is well"],
  ["conduit inject FILE | kubectl apply -f -", "adds the proxy to what a file describes"],
];

const WORDS: [string, string][] = [
  ["SR", "the share of requests that succeeded: HTTP below 500, gRPC without an error of the server"],
  ["RPS", "requests per second, over the window that is chosen at the top"],
  ["P50, P95, P99", "half, 95 and 99 of a hundred requests were answered in less time than this"],
  ["TLS", "the share of requests that came over mutual TLS between two proxies"],
  ["MESHED", "pods with a proxy, of all pods that run"],
  ["Revision", "the place in the replicated log that last changed what proxies are told; each proxy acknowledges it"],
];

export function Docs() {
  return (
    <>
      <h1>Docs</h1>
      <p>Everything here can be asked in a terminal as well; each command has --help.</p>
      <h2>Commands</h2>
      <List of={COMMANDS} code />
      <h2>Words</h2>
      <List of={WORDS} />
    </>
  );
}

function List({ of, code = false }: { of: [string, string][]; code?: boolean }) {
  return (
    <dl class="words">
      {of.map(([term, text]) => (
        <div key={term}>
          <dt>{code ? <code>{term}</code> : term}</dt>
          <dd>{text}</dd>
        </div>
      ))}
    </dl>
  );
}
