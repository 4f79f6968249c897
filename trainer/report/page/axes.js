// Scales and their ticks.

/** Round numbers in [low, high], about `count` of them; whole: none between integers. */
function linearTicks(low, high, count, whole = false) {
  const rough = (high - low) / Math.max(1, count);
  if (!(rough > 0) || !Number.isFinite(rough) || rough < Math.abs(high) * 1e-12) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) ?? 10);
  return multiples(whole ? Math.max(1, Math.round(step)) : step, low, high);
}

function multiples(step, low, high) {
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i) ticks.push(i * step);
  return ticks;
}

function byteUnit(bytes) {  // as a power of 1024
  return Math.min(kByteUnits.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
}

/** Round numbers of the unit that the axis is written in. */
function byteTicks(low, high, count) {
  const unit = 1024 ** byteUnit(high);
  return linearTicks(low / unit, high / unit, count).map((tick) => tick * unit);
}

/** Times: seconds, minutes and hours in their own round numbers. */
function secondTicks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const steps = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  if (rough < 30 || rough > 86400) return linearTicks(low, high, count);
  return multiples(steps.find((candidate) => candidate >= rough * 0.999) ?? 86400, low, high);
}

/** Powers of ten, with 2 and 5 times them where there are few. Both ends above 0. */
function logTicks(low, high, count) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const decades = Math.log10(high / low);
  if (decades < 0.7) return linearTicks(low, high, count).filter((tick) => tick > 0);
  const factors = decades > 3 ? [1] : decades > 1.6 ? [1, 3] : [1, 2, 5];
  const every = Math.max(1, Math.ceil((last - first) / 8));
  const ticks = [];
  for (let power = first; power <= last; power += every)
    for (const factor of factors) {
      const tick = Number((factor * 10 ** power).toPrecision(6));
      if (tick >= low * 0.9999 && tick <= high * 1.0001) ticks.push(tick);
    }
  return ticks.length > 1 ? ticks : linearTicks(low, high, count).filter((tick) => tick > 0);
}

/** A function that writes the ticks of one axis, all in one unit. */
function tickFormat(ticks, unit, log = false) {
  const greatest = Math.max(...ticks.map(Math.abs), 0);
  let gap = Infinity;
  for (let i = 1; i < ticks.length; ++i) gap = Math.min(gap, Math.abs(ticks[i] - ticks[i - 1]));
  if (!Number.isFinite(gap) || log) gap = 0;
  const decimals = (scale) => (gap > 0 ? Math.min(6, Math.max(0, -Math.floor(Math.log10(gap / scale) + 1e-9))) : null);
  const scaled = (scale, suffix) => {
    const digits = decimals(scale);
    return (tick) => {
      const value = tick / scale;
      const text = digits === null ? String(Number(value.toPrecision(4))) : value.toFixed(digits);
      return (Number(text) === 0 ? "0" : text.replace("-", "\u2212")) + (tick === 0 ? "" : suffix);
    };
  };
  if (unit === "bytes") {
    const power = byteUnit(greatest);
    return scaled(1024 ** power, " " + kByteUnits[power]);
  }
  if (unit === "seconds") {
    if (greatest >= 7200) return scaled(3600, " h");
    if (greatest >= 180) return scaled(60, " min");
    if (greatest > 0 && greatest < 1e-4) return scaled(1e-6, " \u00b5s");
    return greatest < 0.1 ? scaled(1e-3, " ms") : scaled(1, " s");
  }
  if (log) return (tick) => (tick < 1e-3 || tick >= 1e4 ? powerText(tick) : scaled(1, "")(tick));
  if (greatest > 0 && greatest < 1e-3) {
    const power = Math.floor(Math.log10(greatest) + 1e-9);
    return scaled(10 ** power, "e" + String(power).replace("-", "\u2212"));
  }
  for (const [scale, suffix] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]])
    if (greatest >= scale * (scale === 1e3 ? 10 : 1)) return scaled(scale, suffix);
  return scaled(1, "");
}

/** "1e-5", "10 k", "3 M" on an axis of powers. */
function powerText(tick) {
  for (const [scale, suffix] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]])
    if (tick >= scale && tick < scale * 1e3) return Number((tick / scale).toPrecision(3)) + suffix;
  return tick.toExponential().replace("+", "").replace("-", "\u2212");
}

/** Where values stand between two ends, as a share. */
function scale(low, high, log) {
  if (!log) return (value) => (value - low) / (high - low);
  const begin = Math.log(low), width = Math.log(high) - begin;
  return (value) => (Math.log(value) - begin) / width;
}

/** The ends of an axis that holds [low, high] with a little air; 0 where it is near. */
function withAir(low, high, log) {
  if (log) {
    const air = Math.max((high / low) ** 0.04, 1.02);
    return [low / air, high * air];
  }
  // Differences that no tick could tell are none.
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (high - low <= size * 1e-5) {
    return size === 0 ? [0, 1] : [low - size * 0.1, high + size * 0.1];
  }
  const air = (high - low) * 0.05;
  if (low >= 0 && low < (high - low) * 0.35) return [0, high + air];
  if (high <= 0 && -high < (high - low) * 0.35) return [low - air, 0];
  return [low - air, high + air];
}
