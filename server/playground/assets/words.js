// Two texts, word by word: which words of each the other one lacks at that place.

const CELLS = 4e6; // of the table below; longer texts are compared by their common ends alone

function commonEnds(left, right) {
  const most = Math.min(left.length, right.length);
  let head = 0;
  while (head < most && left[head] === right[head]) head += 1;
  let tail = 0;
  while (tail < most - head && left.at(-1 - tail) === right.at(-1 - tail)) tail += 1;
  return [head, tail];
}

/** Lengths of the longest common subsequences of all suffixes, `[left + 1][right + 1]`. */
function table(left, right) {
  const width = right.length + 1;
  const lengths = new Uint32Array((left.length + 1) * width);
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      lengths[i * width + j] = left[i] === right[j]
        ? lengths[(i + 1) * width + j + 1] + 1
        : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  return (i, j) => lengths[i * width + j];
}

function differing(left, right) {
  const lost = left.map(() => true);
  const gained = right.map(() => true);
  if (left.length * right.length > CELLS) return [lost, gained];
  const length = table(left, right);
  let [i, j] = [0, 0];
  while (i < left.length && j < right.length) {
    if (left[i] === right[j]) lost[i++] = gained[j++] = false;
    else if (length(i + 1, j) >= length(i, j + 1)) i += 1;
    else j += 1;
  }
  return [lost, gained];
}

/** For both texts a list of `{ word, differs }`, in order. */
export function compare(one, other) {
  const [left, right] = [one, other].map((text) => text.split(/\s+/).filter(Boolean));
  const [head, tail] = commonEnds(left, right);
  const middles = differing(
    left.slice(head, left.length - tail), right.slice(head, right.length - tail),
  );
  return [left, right].map((words, side) => words.map((word, at) => (
    { word, differs: middles[side][at - head] ?? false }
  )));
}
