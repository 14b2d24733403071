// Times, money and names for people.

import { timestampMs, type Timestamp } from '@bufbuild/protobuf/wkt';

import type { Money } from '../gen/google/type/money_pb';
import type { Language } from './preferences.svelte';

export const readerZone = new Intl.DateTimeFormat().resolvedOptions().timeZone;

// Making a formatter is slow, and the board shows thousands of times.
const dateFormats = new Map<string, Intl.DateTimeFormat>();
const durationFormats = new Map<string, Intl.NumberFormat>();
const moneyFormats = new Map<string, Intl.NumberFormat>();

function cached<T>(formats: Map<string, T>, key: string, make: () => T): T {
  let format = formats.get(key);
  if (!format) formats.set(key, (format = make()));
  return format;
}

function dateFormat(language: Language, zone: string, kind: string, options: Intl.DateTimeFormatOptions) {
  const make = () => new Intl.DateTimeFormat(language === 'ko' ? 'ko-KR' : 'en-GB', { timeZone: zone, ...options });
  return cached(dateFormats, `${language} ${zone} ${kind}`, make);
}

const minute: Intl.DateTimeFormatOptions = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' };
const day: Intl.DateTimeFormatOptions = { weekday: 'short', day: 'numeric', month: 'short', year: 'numeric' };

export function ms(time: Timestamp | undefined): number {
  return time ? timestampMs(time) : 0;
}

export function dateTime(language: Language, zone: string, at: number): string {
  return dateFormat(language, zone, 'minute', { ...day, ...minute }).format(at);
}

export function seconds(language: Language, zone: string, at: number): string {
  return dateFormat(language, zone, 'second', { ...day, ...minute, second: '2-digit' }).format(at);
}

export function date(language: Language, zone: string, at: number): string {
  return dateFormat(language, zone, 'day', day).format(at);
}

/** `10:00`, or with the day if that is another one than at the start. */
export function endOf(language: Language, zone: string, start: number, end: number): string {
  const time = dateFormat(language, zone, 'time', minute);
  const same = date(language, zone, start) === date(language, zone, end);
  return same ? time.format(end) : dateTime(language, zone, end);
}

/** The zone's short name at that time, such as `KST` or `GMT+9`. */
export function zoneName(language: Language, zone: string, at = Date.now()): string {
  const parts = dateFormat(language, zone, 'zone', { timeZoneName: 'short' }).formatToParts(at);
  return parts.find((part) => part.type === 'timeZoneName')?.value ?? zone;
}

export function amount(value: Money | undefined): number {
  return value ? Number(value.units) + value.nanos / 1e9 : Number.NaN;
}

export function money(language: Language, value: Money | undefined): string {
  if (!value) return '';
  const currency = value.currencyCode || 'XXX';
  const make = () => new Intl.NumberFormat(language, { style: 'currency', currency, currencyDisplay: 'narrowSymbol' });
  return cached(moneyFormats, `${language} ${currency}`, make).format(amount(value));
}

export function count(language: Language, value: number | bigint): string {
  return value.toLocaleString(language);
}

/** `340 ms`, `1.2 sec` or `3 min`, in the words of the language. */
export function duration(language: Language, value: number): string {
  const units = [['hour', 3_600_000, 2], ['minute', 60_000, 2], ['second', 1000, 1], ['millisecond', 1, 0]] as const;
  const [unit, size] = units.find(([, size, least]) => value >= size * least) ?? units[3];
  const make = () => new Intl.NumberFormat(language, { style: 'unit', unit, unitDisplay: 'short', maximumFractionDigits: unit === 'second' ? 1 : 0 });
  return cached(durationFormats, `${language} ${unit}`, make).format(value / size);
}
