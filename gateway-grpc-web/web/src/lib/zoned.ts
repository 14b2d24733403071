// Times as people write them, in the business time zone.

import { parseAbsolute, parseDateTime, toTimeZone, toZoned } from '@internationalized/date';

/** The value of an `<input type="datetime-local">` for a time in a zone. */
export function toLocalInput(at: number, zone: string): string {
  const zoned = toTimeZone(parseAbsolute(new Date(at).toISOString(), 'UTC'), zone);
  return zoned.toString().slice(0, 16);
}

/** The time that a person means by `2027-01-05 19:00` in a zone, or by an RFC 3339 time with an offset; else undefined. */
export function parseTime(text: string, zone: string): number | undefined {
  const trimmed = text.trim().replace(/^(\d{4}-\d{2}-\d{2}) (?=\d)/, '$1T');
  try {
    if (/(Z|[+-]\d{2}:?\d{2})$/i.test(trimmed)) return parseAbsolute(trimmed.toUpperCase(), 'UTC').toDate().getTime();
    if (!/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}/.test(trimmed)) return undefined;
    return toZoned(parseDateTime(trimmed), zone).toDate().getTime();
  } catch {
    return undefined;
  }
}

const dayFormats = new Map<string, Intl.DateTimeFormat>();
// The board asks for the days of its rows again with every change.
const days = new Map<string, Map<number, string>>();
const MOST_DAYS = 50_000;

/** `2027-01-05`: the day on which a time falls in a zone. */
export function dayIn(at: number, zone: string): string {
  let known = days.get(zone);
  if (!known || known.size > MOST_DAYS) days.set(zone, (known = new Map()));
  let day = known.get(at);
  if (!day) known.set(at, (day = dayFormat(zone).format(at)));
  return day;
}

function dayFormat(zone: string): Intl.DateTimeFormat {
  let format = dayFormats.get(zone);
  // Canadian English writes days as the input fields of HTML do.
  const options: Intl.DateTimeFormatOptions = { timeZone: zone, year: 'numeric', month: '2-digit', day: '2-digit' };
  if (!format) dayFormats.set(zone, (format = new Intl.DateTimeFormat('en-CA', options)));
  return format;
}

/** Noon of a day in a zone: it exists on every day, whatever daylight saving does. */
export function noonOf(day: string, zone: string): number {
  return toZoned(parseDateTime(`${day}T12:00`), zone).toDate().getTime();
}
