import { Dot, Link, Section } from "../bits";
import { distance, moment, NONE } from "../figures";
import { type Column, Table } from "../table";
import type { Assessment, Objectives as Answer, Ref } from "../wire";

interface Promised {
  resource: Ref;
  assessment: Assessment;
}

const STATES: Record<Assessment["state"], ["good" | "fair" | "bad" | "none", string]> = {
  STATE_MET: ["good", "met"],
  STATE_PENDING: ["fair", "pending"],
  STATE_FIRING: ["bad", "firing"],
  STATE_UNKNOWN: ["none", "unknown"],
  STATE_UNSPECIFIED: ["none", "unknown"],
};

/** How many of them are not kept. */
export const firing = (answer: Answer | undefined): number =>
  (answer?.objectives ?? []).flatMap((objective) => objective.assessments).filter(({ state }) => state === "STATE_FIRING").length;

/** What is promised, and how it is kept. */
export function Objectives({ answer }: { answer: Answer }) {
  const rows = answer.objectives.flatMap(({ resource, assessments }) => assessments.map((assessment) => ({ resource, assessment })));
  const windows = rows[0]?.assessment.burnRates.map(({ windowMs }) => windowMs) ?? [];
  const columns: Column<Promised>[] = [
    { title: "NAME", value: ({ resource }) => `${resource.namespace}/${resource.name}`, show: ({ resource }) => <Link to={resource} full /> },
    { title: "OBJECTIVE", value: ({ assessment }) => assessment.goal },
    {
      title: "STATE",
      value: ({ assessment }) => STATES[assessment.state][1],
      show: ({ assessment }) => {
        const [state, label] = STATES[assessment.state];
        return (
          <>
            <Dot state={state} label={assessment.severity || label} /> {label}
          </>
        );
      },
    },
    {
      title: "SINCE",
      value: ({ assessment }) => Number(assessment.sinceMs),
      show: ({ assessment: { sinceMs } }) => (Number(sinceMs) > 0 ? <span title={moment(sinceMs)}>{distance(sinceMs)}</span> : NONE),
    },
    ...windows.map((windowMs, index): Column<Promised> => {
      const rate = ({ assessment }: Promised) => assessment.burnRates[index]?.rate ?? null;
      return {
        title: `BURN ${length(windowMs)}`,
        numeric: true,
        value: rate,
        show: (row) => {
          const burns = rate(row);
          return burns === null ? <span class="dim">{NONE}</span> : `${burns.toFixed(1)}×`;
        },
      };
    }),
  ];
  return (
    <Section title="Objectives">
      <Table
        caption="Objectives"
        columns={columns}
        rows={rows}
        rowKey={({ resource, assessment }) => `${resource.kind}/${resource.namespace}/${resource.name}/${assessment.indicator}`}
        empty={
          <>
            There are none. <code>conduit slo set deploy/NAME --success 99</code> promises something.
          </>
        }
      />
    </Section>
  );
}

const length = (windowMs: number): string => (windowMs % 60_000 ? `${windowMs / 1000}s` : windowMs % 3_600_000 ? `${windowMs / 60_000}m` : `${windowMs / 3_600_000}h`);
