// Logging in, against `eticket dev --tokens`: ETICKET_KEYS is the folder of its key, ETICKET_LINK a log-in link that it has printed.

import AxeBuilder from '@axe-core/playwright';
import type { BrowserContext, Page } from '@playwright/test';
import { createPrivateKey, generateKeyPairSync, randomUUID, sign, type KeyObject } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, test } from './support';

const keys = process.env.ETICKET_KEYS ?? '';
const link = new URL(process.env.ETICKET_LINK ?? 'http://127.0.0.1/#/login/none');
const folder = process.env.ETICKET_SCREENSHOTS;
const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
const inSeconds = (seconds: number) => Math.floor(Date.now() / 1000) + seconds;

/** The key of the servers. Node.js does not read its form of PKCS #8, so its 32 bytes are taken out. */
function ownKey(): KeyObject {
  const { x } = JSON.parse(readFileSync(join(keys, 'jwks.json'), 'utf8')).keys[0];
  const der = Buffer.from(readFileSync(join(keys, 'development-key.pem'), 'utf8').replace(/-----.*-----/g, ''), 'base64');
  const start = der.indexOf(Buffer.from([0x04, 0x22, 0x04, 0x20])) + 4;
  const d = der.subarray(start, start + 32).toString('base64url');
  return createPrivateKey({ key: { kty: 'OKP', crv: 'Ed25519', d, x }, format: 'jwk' });
}

/** A token as the identity provider would make it. */
function token(user: string, role: string, claims: Record<string, unknown> = {}, key?: KeyObject): string {
  const { kid } = JSON.parse(readFileSync(join(keys, 'jwks.json'), 'utf8')).keys[0];
  const own = { sub: user, eticket_roles: [role], iss: 'eticket-development', aud: 'eticket', exp: inSeconds(3600), ...claims };
  const text = `${encode({ alg: 'EdDSA', typ: 'JWT', kid })}.${encode(own)}`;
  return `${text}.${sign(null, Buffer.from(text), key ?? ownKey()).toString('base64url')}`;
}

const vip = (user: string) => token(user, 'user', { eticket_grade: 'VIP' });

/** Makes the tab start with a token, as after a log-in; later ones stay. */
async function withToken(context: BrowserContext | Page, value: string) {
  await context.addInitScript((text) => {
    if (location.origin === 'null' || sessionStorage.getItem('test.set')) return;
    sessionStorage.setItem('test.set', 'yes');
    sessionStorage.setItem('eticket.token', text);
  }, value);
}

async function logIn(page: Page, value: string) {
  await page.getByRole('textbox', { name: 'Token' }).fill(value);
  await page.locator('main').getByRole('button', { name: 'Log in' }).click();
}

const heading = (page: Page, name: string) => expect(page.getByRole('heading', { level: 1, name })).toBeVisible();

test('without a token the log-in page comes first, and refuses what is no good token in words', async ({ page }) => {
  await page.goto('/#/pricing');
  await heading(page, 'Log in');
  await expect(page.getByText('every call needs a token')).toBeVisible();
  for (const [bad, words] of [
    ['not a token', 'A token (JWT) has three parts'],
    [token('mina', 'user', { exp: inSeconds(-3600) }), 'This token has already ended.'],
    [token('mina', 'user', {}, generateKeyPairSync('ed25519').privateKey), 'TOKEN_INVALID'],
    [token('mina', 'user', { aud: 'others' }), 'TOKEN_INVALID'],
  ] as const) {
    await logIn(page, bad);
    await expect(page.locator('main [role=alert]').last()).toContainText(words);
  }
  // As people copy it: with the name of the scheme, and broken into lines.
  await logIn(page, `Bearer ${vip('mina').replace(/(.{60})/g, '$1\n')}\n`);
  // Then the page that was asked for comes.
  await heading(page, 'Pricing');
  await expect(page.locator('.policy')).toContainText('10,000');
  await expect(page.locator('.identity')).toHaveText(/mina\s*VIP/);
  expect(await page.evaluate(() => [JSON.stringify({ ...localStorage }), document.cookie].join())).not.toContain('eyJ');
});

test('a user reserves at the price of the token, sees no page of admins, and logs out', async ({ page }) => {
  const user = `user-${randomUUID().slice(0, 8)}`;
  await withToken(page, vip(user));
  await page.goto('/#/?status=available');
  await expect(page.locator('.connection')).toHaveText('Live');
  const nav = page.getByRole('navigation', { name: 'Pages' });
  await expect(nav.getByRole('link', { name: 'My reservations' })).toBeVisible();
  await expect(nav.getByRole('link', { name: /Register|Operations/ })).toHaveCount(0);
  await expect(page.getByRole('button', { name: 'Withdraw these…' })).toHaveCount(0);

  const row = page.locator('.ticket').first();
  const price = await row.locator('.act small').textContent();
  await row.getByRole('button').click();
  await expect(page.getByRole('dialog')).toContainText(user);
  await page.getByRole('dialog').getByRole('button', { name: `Reserve for ${price}` }).click();
  await expect(page.getByText(`settled, you pay ${price}`)).toBeVisible();
  await page.goto('/#/reservations');
  await expect(page.locator('.pass')).toContainText(price ?? '');
  await page.locator('.pass h2 a').click();
  await expect(page.getByRole('heading', { name: 'Administration' })).toHaveCount(0);
  await expect(page.locator('.history')).toContainText(`${user} reserved the ticket`);

  for (const admins of ['register', 'operations']) {
    await page.goto(`/#/${admins}`);
    await expect(page.getByText('This page needs the token of an admin.')).toBeVisible();
  }
  await page.locator('.identity').click();
  await expect(page.getByRole('dialog')).toContainText('in 60 minutes');
  await page.getByRole('dialog').getByRole('button', { name: 'Log out' }).click();
  await expect(page.getByText('You are logged out.')).toBeVisible();
  expect(await page.evaluate(() => sessionStorage.getItem('eticket.token'))).toBeNull();
  await page.reload();
  await heading(page, 'Log in');
});

test('others do not see who holds a ticket', async ({ page }) => {
  await withToken(page, vip('stranger'));
  await page.goto('/#/?status=reserved');
  await expect(page.locator('.ticket .holder').first()).toHaveText('Somebody');
  await page.locator('.ticket .title a').first().click();
  await expect(page.getByText('Only they and admins see who.')).toBeVisible();
  await expect(page.locator('.history')).toContainText('Somebody reserved the ticket');
});

test('an admin registers, and acts for another user', async ({ page }) => {
  await withToken(page, token('root', 'admin'));
  await page.goto('/#/register');
  const title = `By an admin ${randomUUID().slice(0, 8)}`;
  await page.getByLabel('Title').fill(title);
  await page.getByLabel('Start').fill('2031-03-05T12:00');
  await page.getByLabel('End').fill('2031-03-05T14:00');
  await page.getByRole('button', { name: 'Register', exact: true }).click();
  await page.getByRole('status').getByRole('link', { name: title }).click();
  await page.locator('.identity').click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('User id').fill('sora');
  await dialog.getByLabel('VIP').check();
  await dialog.getByRole('button', { name: 'Act for this user' }).click();
  await page.getByRole('button', { name: 'Reserve', exact: true }).click();
  await dialog.getByRole('button', { name: 'Reserve for ₩7,000' }).click();
  await expect(page.getByText('settled, you pay ₩7,000')).toBeVisible();
  await expect(page.locator('.history')).toContainText('sora reserved the ticket');
  await page.goto('/#/operations');
  await expect(page.locator('.health .serving')).toHaveCount(5);
});

test('when the token ends, its reader logs in again and is back where they were', async ({ page }) => {
  // The servers accept it for 30 more seconds, so that clocks may differ.
  await withToken(page, token('root', 'admin', { exp: inSeconds(-24) }));
  await page.goto('/#/register?many=1');
  await page.getByRole('textbox', { name: 'Table' }).fill('a,b');
  await expect(page.getByText('Your token ends any moment.')).toBeVisible();
  await expect(page.getByText('Your token has ended.')).toBeVisible({ timeout: 30_000 });
  await expect(page).toHaveURL(/#\/register\?many=1$/);
  await expect(page.getByRole('textbox', { name: 'Table' })).toBeHidden();
  expect(await page.evaluate(() => sessionStorage.getItem('eticket.token'))).toBeNull();
  await logIn(page, token('root', 'admin'));
  await expect(page.getByRole('textbox', { name: 'Table' })).toHaveValue('a,b');
  await expect(page.locator('.connection')).toHaveText('Live');

  // Another user does not find what was typed.
  await page.locator('.identity').click();
  await page.getByRole('button', { name: 'Log out' }).click();
  await logIn(page, token('other', 'admin'));
  await expect(page.getByRole('textbox', { name: 'Table' })).toHaveValue('');
});

test('a link of the development server logs in once, and its code leaves the address at once', async ({ page, browser, baseURL }) => {
  const before = await page.evaluate(() => history.length);
  await page.goto(`/${link.hash}`);
  await expect(page.locator('.identity')).toHaveText(/mina\s*VIP/);
  await heading(page, 'Tickets');
  await expect(page.locator('.connection')).toHaveText('Live');
  await expect(page).toHaveURL(/\/#\/$/);
  expect(await page.evaluate(() => history.length)).toBeLessThanOrEqual(before + 1);
  expect(await page.evaluate(() => performance.getEntriesByType('resource').map((entry) => entry.name).join())).not.toContain(link.hash.slice(8));
  await page.reload();
  await expect(page.locator('.identity')).toHaveText(/mina\s*VIP/);

  const context = await browser.newContext({ baseURL });
  const second = await context.newPage();
  await second.goto(`/${link.hash}`);
  await expect(second.getByText('This link does not work: it has been used already')).toBeVisible();
  await expect(second).toHaveURL(/\/#\/$/);
  await context.close();
});

const widths = { wide: { width: 1440, height: 900 }, phone: { width: 390, height: 844 }, narrow: { width: 320, height: 640 } };

for (const language of ['en', 'ko'] as const) {
  for (const theme of ['light', 'dark'] as const) {
    for (const [width, viewport] of Object.entries(widths)) {
      test(`log-in pages: ${language}, ${theme}, ${width}`, async ({ page, browser, baseURL }) => {
        await page.setViewportSize(viewport);
        await page.emulateMedia({ colorScheme: theme, reducedMotion: 'reduce' });
        const choose = (value: string) => location.origin !== 'null' && localStorage.setItem('eticket.language', value);
        await page.addInitScript(choose, language);
        const look = async (at: Page, name: string) => {
          const tooWide = await at.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
          expect.soft(tooWide, `${name} is wider than the window`).toBeLessThanOrEqual(0);
          const { violations } = await new AxeBuilder({ page: at }).analyze();
          expect.soft(violations.map((each) => `${each.id}: ${each.nodes[0]?.target.join(' ')}`), `axe on ${name}`).toEqual([]);
          if (folder) await at.screenshot({ path: `${folder}/${name}-${width}-${theme}-${language}.png` });
        };
        await page.goto('/');
        await expect(page.locator('main form textarea')).toBeVisible();
        await page.locator('main form textarea').fill('no token');
        await page.locator('main form .primary').click();
        await expect(page.locator('main .wrong')).toBeVisible();
        await look(page, 'login');

        const context = await browser.newContext({ baseURL, viewport, colorScheme: theme, reducedMotion: 'reduce' });
        await context.addInitScript(choose, language);
        await withToken(context, token('mina', 'user', { eticket_grade: 'VIP', exp: inSeconds(290) }));
        const inside = await context.newPage();
        await inside.goto('/#/operations');
        await expect(inside.locator('main .card .primary')).toBeVisible();
        await look(inside, 'admin-only');
        await inside.locator('.identity').click();
        await expect(inside.locator('dialog .facts')).toBeVisible();
        await look(inside, 'account');
        await context.close();
      });
    }
  }
}
