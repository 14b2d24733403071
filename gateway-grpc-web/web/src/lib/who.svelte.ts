// Who is reading: with tokens the user of the token, without authentication whoever the reader says they are.

import { UserGrade } from '../gen/eticket/reservation/v1/reservation_pb';
import { preferences, read, tab, write, type Identity } from './preferences.svelte';

/** What a token says. The server checks it; the page only shows it. */
export interface Claims {
  subject: string;
  roles: string[];
  grade: UserGrade;
  /** In milliseconds; NaN if the token does not say. */
  expires: number;
}

/** Why the log-in page is shown. */
export type Why = 'missing' | 'expired' | 'invalid' | 'left' | 'asked' | 'code' | 'unreachable';

const KEY = 'eticket.token';

/** The payload of a JWT; undefined if the text is none. */
export function claimsOf(token: string): Claims | undefined {
  try {
    const parts = token.split('.');
    const bytes = Uint8Array.from(atob((parts[1] ?? '').replace(/-/g, '+').replace(/_/g, '/')), (char) => char.charCodeAt(0));
    const body = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
    if (parts.length !== 3 || typeof body !== 'object') return undefined;
    const grade = UserGrade[String(body.eticket_grade ?? 'SILVER') as keyof typeof UserGrade] ?? UserGrade.UNSPECIFIED;
    const roles = Array.isArray(body.eticket_roles) ? body.eticket_roles.map(String) : [];
    return { subject: String(body.sub ?? ''), roles, grade, expires: Number(body.exp ?? Number.NaN) * 1000 };
  } catch {
    return undefined;
  }
}

class Who {
  #token = $state(read(tab, KEY) ?? '');
  #tokensNeeded = $state(false);
  /** The reason for the log-in page; null while another page is shown. */
  why = $state.raw<Why | null>(null);
  /** The server's words for the reason. */
  words = $state('');
  #last = $state.raw<Claims | undefined>(undefined);
  readonly claims = $derived(this.#token ? claimsOf(this.#token) : undefined);
  /** Whether the server wants tokens, as far as the page knows. */
  readonly byToken = $derived(this.#tokensNeeded || this.#token !== '');
  readonly isAdmin = $derived(!this.byToken || (this.claims ?? (this.why ? this.#last : undefined))?.roles.includes('admin') === true);
  /** The last user who logged in: what they were doing is kept until another one does. */
  readonly session = $derived(this.#last?.subject ?? '');
  /** The user that this page acts for. An admin's token may name another. */
  readonly me = $derived.by<Identity | null>(() => {
    if (!this.byToken) return preferences.identity;
    if (!this.claims) return null;
    return (this.isAdmin && preferences.identity) || { userId: this.claims.subject, grade: this.claims.grade };
  });

  constructor() {
    this.#last = this.claims;
  }

  get token() {
    return this.#token;
  }

  set token(value: string) {
    this.#token = value;
    write(tab, KEY, value || null);
    if (!value) return;
    if (this.claims?.subject !== this.session) preferences.identity = null;
    this.#last = this.claims;
    this.why = null;
    this.words = '';
  }

  /** The server wants a token, and the page is one that can do without until then. */
  needsTokens() {
    this.#tokensNeeded = true;
  }

  /** A call with this token was refused. */
  refused(reason: string, words: string, token: string) {
    this.#tokensNeeded = true;
    // Another call was refused first, or the reader has a new token already.
    if (this.why || token !== this.#token) return;
    const expired = (this.claims?.expires ?? Number.NaN) <= Date.now();
    this.why = reason === 'TOKEN_MISSING' ? 'missing' : expired ? 'expired' : 'invalid';
    this.words = words;
    this.token = '';
  }

  /** `left` logs out; null goes on without a token, where the server allows to read without one. */
  leave(why: 'left' | null) {
    this.#tokensNeeded = true;
    this.token = '';
    this.#last = undefined;
    preferences.identity = null;
    this.why = why;
  }
}

export const who = new Who();
