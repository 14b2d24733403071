// What the reader has chosen: language, colors, and, without authentication, who they are.

import { UserGrade } from '../gen/eticket/reservation/v1/reservation_pb';

export type Language = 'en' | 'ko';
export type Theme = 'auto' | 'light' | 'dark';

export interface Identity {
  userId: string;
  grade: UserGrade;
}

// Storage may be refused, as in private windows with strict settings; then a choice lasts as long as the page.
export function read(storage: () => Storage, key: string): string | null {
  try {
    return storage().getItem(key);
  } catch {
    return null;
  }
}

export function write(storage: () => Storage, key: string, value: string | null) {
  try {
    if (value === null) storage().removeItem(key);
    else storage().setItem(key, value);
  } catch {
    // See `read`.
  }
}

const local = () => window.localStorage;
/** Ends with the browser tab. */
export const tab = () => window.sessionStorage;

function firstLanguage(): Language {
  const chosen = read(local, 'eticket.language');
  if (chosen === 'en' || chosen === 'ko') return chosen;
  const wanted = navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => tag === 'en' || tag === 'ko');
  return wanted === 'ko' ? 'ko' : 'en';
}

function firstTheme(): Theme {
  const chosen = read(local, 'eticket.theme');
  return chosen === 'light' || chosen === 'dark' ? chosen : 'auto';
}

function firstIdentity(): Identity | null {
  try {
    const { userId, grade } = JSON.parse(read(tab, 'eticket.identity') ?? '') as Identity;
    return userId && grade in UserGrade ? { userId, grade } : null;
  } catch {
    return null;
  }
}

class Preferences {
  #language = $state<Language>(firstLanguage());
  #theme = $state<Theme>(firstTheme());
  #identity = $state.raw<Identity | null>(firstIdentity());

  get language() {
    return this.#language;
  }

  set language(value: Language) {
    this.#language = value;
    write(local, 'eticket.language', value);
  }

  get theme() {
    return this.#theme;
  }

  set theme(value: Theme) {
    this.#theme = value;
    write(local, 'eticket.theme', value === 'auto' ? null : value);
  }

  /** The development identity. It ends with the browser tab. */
  get identity() {
    return this.#identity;
  }

  set identity(value: Identity | null) {
    this.#identity = value;
    write(tab, 'eticket.identity', value && JSON.stringify(value));
  }
}

export const preferences = new Preferences();
