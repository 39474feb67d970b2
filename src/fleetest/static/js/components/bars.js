// Bars of a timeline as columns of numbers: a hundred thousand of them are a few megabytes, and adding one is cheap.

/** The bars of one slot, by start; numbers are seconds since the run began. */
export class Lane {
  constructor(name) {
    this.name = name;
    this.length = 0;
    this.starts = new Float64Array(32);
    this.ends = new Float64Array(32);
    this.verdicts = new Uint8Array(32);
    this.ids = new Uint32Array(32);
  }

  /** `verdict` and `id` are numbers of the Bars that this lane belongs to. Bars come almost in order. */
  add(start, end, verdict, id) {
    if (this.length === this.starts.length) this.grow();
    let place = this.length;
    for (; place > 0 && this.starts[place - 1] > start; place -= 1) {
      for (const column of [this.starts, this.ends, this.verdicts, this.ids]) column[place] = column[place - 1];
    }
    this.starts[place] = start;
    this.ends[place] = end;
    this.verdicts[place] = verdict;
    this.ids[place] = id;
    this.length += 1;
  }

  grow() {
    for (const name of ["starts", "ends", "verdicts", "ids"]) {
      const wider = new this[name].constructor(this.length * 2);
      wider.set(this[name]);
      this[name] = wider;
    }
  }

  /** The first bar that ends at `moment` or later. */
  firstAt(moment) {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle] < moment) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

const ORDER = new Intl.Collator("en", { numeric: true });

/** All bars of a run: lanes in the order of their names, verdicts and ids by number. */
export class Bars {
  constructor() {
    this.lanes = [];
    this.byName = new Map();
    this.verdicts = [];
    this.ids = [];
    this.end = 0;
    this.isSorted = true;
  }

  lane(name) {
    let lane = this.byName.get(name);
    if (!lane) {
      lane = new Lane(name);
      this.byName.set(name, lane);
      this.lanes.push(lane);
      this.isSorted = false;
    }
    return lane;
  }

  /** Takes one answer of the API: columns whose n-th entries belong together. */
  take(part) {
    this.verdicts = part.verdicts;
    const lanes = part.lanes.map((name) => this.lane(name));
    for (let index = 0; index < part.task_id.length; index += 1) {
      const start = part.start_s[index];
      const end = start + part.duration_s[index];
      lanes[part.lane[index]].add(start, end, part.verdict[index], this.ids.length);
      this.ids.push(part.task_id[index]);
      if (end > this.end) this.end = end;
    }
  }

  sorted() {
    if (!this.isSorted) this.lanes.sort((one, other) => ORDER.compare(one.name, other.name));
    this.isSorted = true;
    return this.lanes;
  }
}
