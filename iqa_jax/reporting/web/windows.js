// Windows of pictures, as iqa_jax/ops/windows.py has them: where they are, cutting them, and their scores as a map.

export const SMALLEST = 32; // pixels on a side, below which a picture is refused

// Half to even, as Python rounds.
function rounded(x) {
  const floor = Math.floor(x), rest = x - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

function spaced(length, size, count) {
  return Array.from({ length: count }, (_, k) => rounded((k * (length - size)) / Math.max(count - 1, 1)));
}

// Where the fewest windows of `size` that cover `length` begin, evenly spaced.
export function covering(length, size) {
  return spaced(length, size, Math.max(Math.ceil(length / size), 1));
}

// Evenly spaced windows that overlap by half or more and reach both ends.
export function overlapping(length, size) {
  return spaced(length, size, Math.ceil((length - size) / Math.floor(size / 2)) + 1);
}

// The [top, left] of each window; a picture below a window's size is mirrored up to it.
export function places(along, height, width, size) {
  const [rows, columns] = [height, width].map((length) => along(Math.max(length, size), size));
  return rows.flatMap((top) => columns.map((left) => [top, left]));
}

// The pixel that stands at `k` of a side that is mirrored at its end, as often as need be.
export function mirrored(k, length) {
  const inside = k % (2 * length);
  return inside < length ? inside : 2 * length - 1 - inside;
}

const UNIT = Float32Array.from({ length: 256 }, (_, level) => level / 255);

// Windows as (windows, size, size, 3) float32 in [0, 1] of a picture { data (RGBA), width, height }.
export function cut({ data, width, height }, where, size) {
  const windows = new Float32Array(where.length * size * size * 3);
  let at = 0;
  for (const [top, left] of where) {
    for (let y = 0; y < size; y += 1) {
      const row = mirrored(top + y, height) * width;
      for (let x = 0; x < size; x += 1) {
        const from = 4 * (row + mirrored(left + x, width));
        windows[at] = UNIT[data[from]];
        windows[at + 1] = UNIT[data[from + 1]];
        windows[at + 2] = UNIT[data[from + 2]];
        at += 3;
      }
    }
  }
  return windows;
}

// The mean, weighted if there are weights and any of them is above 0.
export function meanOf(scores, weights = null) {
  const total = weights ? weights.reduce((sum, x) => sum + x, 0) : 0;
  if (!total) return scores.reduce((sum, x) => sum + x, 0) / scores.length;
  return scores.reduce((sum, x, k) => sum + x * weights[k], 0) / total;
}

// Scores of overlapping windows as a map of every `step`-th pixel; a window weighs most in its middle.
export function mapOf(scores, where, height, width, size, step = 1) {
  const rows = Math.ceil(height / step), columns = Math.ceil(width / step);
  const total = new Float64Array(rows * columns), weights = new Float64Array(rows * columns);
  const ramp = (k) => Math.min(k + 1, size - k);
  where.forEach(([top, left], k) => {
    for (let row = Math.ceil(top / step); row < rows && row * step < top + size; row += 1) {
      const down = ramp(row * step - top);
      for (let column = Math.ceil(left / step); column < columns && column * step < left + size; column += 1) {
        const weight = down * ramp(column * step - left), at = row * columns + column;
        total[at] += scores[k] * weight;
        weights[at] += weight;
      }
    }
  });
  return { values: Float32Array.from(total, (sum, at) => sum / weights[at]), width: columns, height: rows };
}
