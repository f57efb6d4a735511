import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

import { timeOfDay } from "./figures";
import { color } from "./theme";

export interface Line {
  name: string;
  /** A custom property of the style sheet. */
  color: string;
  values: (number | null)[];
  fill?: boolean;
}

interface Props {
  title: string;
  /** Seconds since the Unix epoch. */
  times: number[];
  lines: Line[];
  write: (value: number) => string;
}

const HEIGHT = 180;

export function Chart({ title, times, lines, write }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const names = lines.map((line) => line.name).join();
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const draw = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(element.clientWidth, lines, write), data(times, lines), element);
    };
    draw();
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    resized.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", draw);
    addEventListener("conduit-theme", draw);
    return () => {
      resized.disconnect();
      scheme.removeEventListener("change", draw);
      removeEventListener("conduit-theme", draw);
      plot.current?.destroy();
      plot.current = undefined;
    };
    // Drawn once for a set of lines; their values follow below.
  }, [names]);
  useEffect(() => plot.current?.setData(data(times, lines)), [times, lines]);
  const last = lines.map((line) => `${line.name} ${write(line.values.findLast((value) => value !== null) ?? 0)}`).join(", ");
  return (
    <figure class="chart">
      <figcaption>{title}</figcaption>
      <div ref={place} role="img" aria-label={`${title}, latest: ${last}`} />
    </figure>
  );
}

const data = (times: number[], lines: Line[]): uPlot.AlignedData => [times, ...lines.map((line) => line.values)];

function options(width: number, lines: Line[], write: (value: number) => string): uPlot.Options {
  const axis = { stroke: color("dim"), grid: { stroke: color("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  return {
    width,
    height: HEIGHT,
    cursor: { y: false, points: { size: 5 } },
    scales: { y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
    axes: [{ ...axis, space: 70, size: 26, values: (_, ticks) => ticks.map((tick) => timeOfDay(tick * 1000)) }, { ...axis, size: 62, values: (_, ticks) => ticks.map(write) }],
    series: [
      { label: "Time", value: (_, time) => (time ? timeOfDay(time * 1000) : "") },
      ...lines.map((line) => ({
        label: line.name,
        stroke: color(line.color),
        width: 1.5,
        points: { show: false },
        fill: line.fill ? `${color(line.color)}22` : undefined,
        value: (_: uPlot, value: number | null) => (value === null ? "–" : write(value)),
      })),
    ],
  };
}
