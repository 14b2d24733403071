import { sha256 } from '@noble/hashes/sha2';

/** A random UUID. `crypto.randomUUID` exists only on HTTPS and on loopback addresses. */
export function randomId(): string {
  return uuid(crypto.getRandomValues(new Uint8Array(16)), 4);
}

/** The same UUID for the same parts, so that a command that is sent twice takes effect once. */
export function stableId(...parts: string[]): string {
  return uuid(sha256(new TextEncoder().encode(JSON.stringify(parts))).slice(0, 16), 8);
}

function uuid(bytes: Uint8Array, version: number): string {
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | (version << 4);
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}
