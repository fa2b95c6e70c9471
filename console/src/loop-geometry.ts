// Where the eight boxes of the seed's flow stand and how its arrows run: a ring, wide or narrow.

export interface Box {
  x: number;
  y: number;
}

export interface Ring {
  width: number;
  height: number;
  box: { width: number; height: number };
  boxes: Box[];
  arrows: string[]; // SVG paths; arrow i leads from box i to the next one, the last one back to the first
  middle: { x: number; y: number; width: number; height: number } | null; // free room inside the ring
}

const COUNT = 8;
const HEAD = 7; // the arrow ends so far before the box that its head fits

/** Four boxes there, four back; on a narrow page two columns, as the seed's `graph TD` reads. */
export function ring(width: number): Ring {
  return width >= 620 ? wide(width) : narrow(width);
}

function wide(width: number): Ring {
  const box = { width: Math.min(190, (width - 3 * 28) / 4), height: 66 };
  const height = 304;
  const step = (width - box.width) / 3;
  const boxes = Array.from({ length: COUNT }, (_, i) =>
    i < 4 ? { x: i * step, y: 0 } : { x: (7 - i) * step, y: height - box.height },
  );
  const inset = box.width / 2 + 20;
  const middle = { x: inset, y: box.height + 14, width: width - 2 * inset, height: height - 2 * box.height - 28 };
  return { width, height, box, boxes, arrows: arrows(boxes, box), middle };
}

function narrow(width: number): Ring {
  const gap = 24;
  const box = { width: (width - gap) / 2, height: 66 };
  const boxes = Array.from({ length: COUNT }, (_, i) => {
    const row = i < 4 ? i : 7 - i;
    return { x: i < 4 ? 0 : box.width + gap, y: row * (box.height + gap) };
  });
  return { width, height: 4 * box.height + 3 * gap, box, boxes, arrows: arrows(boxes, box), middle: null };
}

function arrows(boxes: Box[], size: { width: number; height: number }): string[] {
  return boxes.map((from, i) => {
    const to = boxes[(i + 1) % boxes.length] as Box;
    const side = { x: Math.sign(to.x - from.x), y: Math.sign(to.y - from.y) };
    if (side.y === 0) {
      const y = from.y + size.height / 2;
      const start = from.x + (side.x > 0 ? size.width : 0);
      const end = to.x + (side.x > 0 ? -HEAD : size.width + HEAD);
      return `M${start} ${y}H${end}`;
    }
    const x = from.x + size.width / 2;
    const start = from.y + (side.y > 0 ? size.height : 0);
    const end = to.y + (side.y > 0 ? -HEAD : size.height + HEAD);
    return `M${x} ${start}V${end}`;
  });
}
