import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { LoadSample } from "../../src/client/index.ts";
import { LOAD_SECONDS, type WatchedDisk } from "../state/watched-disk.ts";
import { bytes, latency, rate } from "../words.ts";

interface Curve {
  readonly label: string;
  /** Name of a colour of the page. */
  readonly colour: string;
  readonly dash?: readonly number[];
  readonly of: (sample: LoadSample) => number;
}

const THROUGHPUT: readonly Curve[] = [
  { label: "read by the guest", colour: "--map-local", of: ({ readBytes }) => readBytes },
  { label: "written by the guest", colour: "--map-written", dash: [6, 4], of: ({ writtenBytes }) => writtenBytes },
  {
    label: "fetched from the source",
    colour: "--curve-third",
    dash: [2, 3],
    of: ({ fetchedBytes, streamedBytes }) => fetchedBytes + streamedBytes,
  },
];
const LATENCY: readonly Curve[] = [
  { label: "half of the reads took at most", colour: "--map-local", of: ({ readP50Us }) => readP50Us },
  { label: "99 % of the reads", colour: "--curve-third", dash: [2, 3], of: ({ readP99Us }) => readP99Us },
  { label: "99 % of the writes", colour: "--map-written", dash: [6, 4], of: ({ writeP99Us }) => writeP99Us },
];

/** What the disk had to do lately, and how long its guest waited. */
export function LoadPanel({ watched }: { readonly watched: WatchedDisk }) {
  const samples = watched.samples.value;
  return (
    <div class="columns">
      <section class="panel">
        <h2>Throughput</h2>
        <Plot samples={samples} curves={THROUGHPUT} say={rate} axis={bytes} steps={BINARY} least={2 ** 20} />
      </section>
      <section class="panel">
        <h2>How long the guest waits</h2>
        <Plot samples={samples} curves={LATENCY} say={latency} axis={latency} least={1000} />
      </section>
    </div>
  );
}

interface PlotParts {
  readonly samples: readonly LoadSample[];
  readonly curves: readonly Curve[];
  readonly say: (value: number) => string;
  readonly axis: (value: number) => string;
  /** Where the axis ends when next to nothing happens. */
  readonly least: number;
  /** Between the lines of the axis there are so many; absent: decimal. */
  readonly steps?: readonly number[];
}

function Plot({ samples, curves, say, axis, steps, least }: PlotParts) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(null);
  const latest = useRef(samples);
  latest.current = samples;
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const draw = (): void => {
      plot.current?.destroy();
      plot.current = new uPlot(
        optionsFor(element, { curves, axis, steps, least }),
        dataOf(latest.current, curves),
        element,
      );
    };
    draw();
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", draw);
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    observer.observe(element);
    return () => {
      scheme.removeEventListener("change", draw);
      observer.disconnect();
      plot.current?.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData(dataOf(samples, curves)), [samples]);
  const last = samples.at(-1);
  return (
    <>
      <div class="plot" ref={box} aria-hidden="true" />
      <dl class="curves">
        {curves.map(({ label, colour, dash, of }) => (
          <div key={label}>
            <dt>
              <svg width="22" height="8" aria-hidden="true">
                <line
                  x1="1"
                  y1="4"
                  x2="21"
                  y2="4"
                  stroke={`var(${colour})`}
                  stroke-width="2"
                  stroke-dasharray={dash?.join(" ")}
                />
              </svg>
              {label}
            </dt>
            <dd>{last === undefined || of(last) === 0 ? "–" : say(of(last))}</dd>
          </div>
        ))}
      </dl>
      {samples.length === 0 && <p class="hint">Nothing in the last two minutes.</p>}
    </>
  );
}

const HEIGHT = 150;
/** Powers of two, and of them the fifths and halves that people like: 1, 2, 5, 10, 20, 50 ... of each unit. */
const BINARY = [0, 10, 20, 30, 40].flatMap((power) =>
  [1, 2, 5, 10, 20, 50, 100, 200, 500].map((step) => step * 2 ** power),
);

/** Second by second: one without a sample is one in which nothing happened. */
function dataOf(samples: readonly LoadSample[], curves: readonly Curve[]): uPlot.AlignedData {
  const now = Math.floor((samples.at(-1)?.at ?? Date.now()) / 1000);
  const bySecond = new Map(samples.map((sample) => [Math.floor(sample.at / 1000), sample]));
  const seconds = Array.from({ length: LOAD_SECONDS }, (_, index) => now - LOAD_SECONDS + 1 + index);
  const lines = curves.map(({ of }) =>
    seconds.map((second) => {
      const sample = bySecond.get(second);
      return sample === undefined ? 0 : of(sample);
    }),
  );
  return [seconds, ...lines];
}

function optionsFor(
  element: HTMLElement,
  { curves, axis, steps, least }: Pick<PlotParts, "curves" | "axis" | "steps" | "least">,
): uPlot.Options {
  const style = getComputedStyle(element);
  const colour = (name: string): string => style.getPropertyValue(name).trim();
  const common: uPlot.Axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: `11px ${style.fontFamily}`,
  };
  return {
    width: element.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, __, most) => [0, Math.max(least, most * 1.1)] } },
    axes: [
      { ...common, size: 24, space: 100, values: (_, seconds) => seconds.map(clock) },
      {
        ...common,
        size: 68,
        space: 36,
        values: (_, values) => values.map((value) => (value === 0 ? "0" : axis(value))),
        ...(steps !== undefined && { incrs: [...steps] }),
      },
    ],
    series: [
      {},
      ...curves.map(({ colour: name, dash }) => ({
        stroke: colour(name),
        width: 2,
        points: { show: false },
        ...(dash !== undefined && { dash: [...dash] }),
      })),
    ],
  };
}

function clock(second: number): string {
  return new Date(second * 1000).toLocaleTimeString(undefined, { hour12: false });
}
