// Every page and dialog in both languages, themes and widths: axe finds nothing, nothing is wider than the window, and a picture
// of each goes to the folder ETICKET_SCREENSHOTS.

import AxeBuilder from '@axe-core/playwright';
import type { Page } from '@playwright/test';

import { as, expect, query, registered, reserved, test, tickets } from './support';

const VIP = 3;
const user = 'mina';
const folder = process.env.ETICKET_SCREENSHOTS;
const base = Date.parse('2031-03-03T19:30:00+09:00');
const day = 86_400_000;
const ids: string[] = [];

test.beforeAll(async () => {
  if ((await query.listTicketViews({ filterUserId: user, pageSize: 1 })).views.length > 0) {
    // An earlier run against the same gateway has made the data.
    const { views } = await query.listTicketViews({ pageSize: 1000 });
    ids.push(...['Spring concert, row A seat 1', 'Spring concert, row A seat 2'].map((title) => views.find((view) => view.title === title)?.ticketId ?? ''));
    return;
  }
  const names = ['Spring concert, row A seat 1', 'Spring concert, row A seat 2', '봄 음악회 1열 3번', 'Open-air cinema', 'Chamber music', '국립극장 연극 “햄릿”', 'Jazz night', 'Ballet matinee'];
  for (const [index, name] of names.entries()) ids.push(await registered(name, base + index * day));
  await reserved(ids[0] ?? '', user, VIP);
  await reserved(ids[3] ?? '', 'joon', 1);
  await reserved(ids[2] ?? '', user, VIP);
  await tickets.withdrawTicket({ ticketId: ids[2] ?? '' });
  await registered('Last year’s gala', Date.parse('2025-01-15T19:00:00+09:00'));
});

interface Shot {
  name: string;
  hash: () => string;
  /** Brings the page into the state to look at. */
  open?: (page: Page) => Promise<void>;
  ready: string;
}

const table = 'ticket_id,title,start_time,end_time\na-1,Good row,2031-04-01 19:00,2031-04-01 21:00\na-1,Twice,2031-04-01 19:00,2031-04-01 18:00\nb 2,,soon,2031-04-01T21:00:00Z';
const openRow = async (page: Page) => page.locator('.ticket .act .primary').first().click();
const shots: Shot[] = [
  { name: 'board', hash: () => '#/?from=2025-01-01&to=2031-03-31', ready: '.ticket' },
  { name: 'board-empty', hash: () => '#/?q=nothing-like-this', ready: '.empty .button' },
  { name: 'reserve', hash: () => '#/?q=jazz', open: openRow, ready: 'dialog .price' },
  { name: 'ticket', hash: () => `#/tickets/${ids[0]}`, ready: '.pass .price' },
  { name: 'ticket-missing', hash: () => '#/tickets/no-such-ticket', ready: '.problem' },
  { name: 'edit', hash: () => `#/tickets/${ids[1]}`, open: (page) => page.locator('section .button').first().click(), ready: 'dialog form' },
  { name: 'withdraw', hash: () => `#/tickets/${ids[0]}`, open: (page) => page.locator('section .danger').click(), ready: 'dialog .warning' },
  { name: 'withdraw-many', hash: () => '#/?q=spring', open: (page) => page.locator('.filter .danger').click(), ready: 'dialog .warning' },
  { name: 'reservations', hash: () => '#/reservations', ready: '.pass .price' },
  { name: 'identity', hash: () => '#/reservations', open: (page) => page.locator('.identity').click(), ready: 'dialog form' },
  { name: 'register', hash: () => '#/register', ready: 'form.card' },
  { name: 'register-many', hash: () => '#/register?many=1', open: (page) => page.locator('textarea').fill(table), ready: 'tr.wrong' },
  { name: 'pricing', hash: () => '#/pricing', ready: '[data-calendar-day] small:not(:empty)' },
  { name: 'operations', hash: () => '#/operations', open: (page) => page.locator('.tasks .button').first().click(), ready: '.tasks .good' },
  { name: 'missing', hash: () => '#/nowhere', ready: 'h1' },
];

const widths = { wide: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } };

for (const language of ['en', 'ko'] as const) {
  for (const theme of ['light', 'dark'] as const) {
    for (const [width, viewport] of Object.entries(widths)) {
      test(`pages: ${language}, ${theme}, ${width}`, async ({ page }) => {
        test.setTimeout(600_000);
        await page.setViewportSize(viewport);
        await page.emulateMedia({ colorScheme: theme, reducedMotion: 'reduce' });
        await as(page, user, VIP);
        await page.addInitScript((value) => location.origin !== 'null' && localStorage.setItem('eticket.language', value), language);
        for (const shot of shots) {
          await page.goto('about:blank');
          await page.goto(`/${shot.hash()}`);
          await expect(page.locator('.connection.live, .connection.behind')).toBeVisible();
          await shot.open?.(page);
          await expect(page.locator(shot.ready).first()).toBeVisible();
          if (shot.name === 'pricing') await expect(page.locator('[data-calendar-day]:not([data-outside-month]) small:empty')).toHaveCount(0);
          await expect(page.locator('html')).toHaveAttribute('lang', language);
          const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
          expect.soft(tooWide, `${shot.name} is wider than the window`).toBeLessThanOrEqual(0);
          const { violations } = await new AxeBuilder({ page }).analyze();
          const found = violations.map((each) => `${each.id}: ${each.nodes.map((node) => node.target.join(' ')).slice(0, 3).join(' | ')}`);
          expect.soft(found, `axe on ${shot.name}`).toEqual([]);
          if (folder) await page.screenshot({ path: `${folder}/${shot.name}-${width}-${theme}-${language}.png`, fullPage: !/^dialog|^.ticket/.test(shot.ready) });
        }
      });
    }
  }
}

test('the board fits every width', async ({ page }) => {
  await as(page, user, VIP);
  await page.goto('/#/?q=spring');
  for (const width of [320, 390, 768, 961, 1024, 1280, 1281, 1920]) {
    await page.setViewportSize({ width, height: 800 });
    await expect(page.locator('.ticket .button')).toHaveCount(2);
    const cut = await page.locator('.ticket').evaluateAll((rows) =>
      rows.flatMap((row) => {
        const outer = row.getBoundingClientRect();
        const inner = [...row.querySelectorAll('.button, .status, .price, .when, .title a')].map((each) => [each.className, each.getBoundingClientRect()] as const);
        return inner.filter(([, box]) => box.right > outer.right || box.bottom > outer.bottom + 1).map(([name]) => name);
      }),
    );
    expect(cut, `cut off at ${width} pixels`).toEqual([]);
  }
});

test('a reservation is printed alone', async ({ page }) => {
  await as(page, user, VIP);
  await page.addInitScript(() => (window.print = () => document.body.setAttribute('data-printing', '')));
  await page.goto('/#/reservations');
  await page.emulateMedia({ media: 'print' });
  // In print the buttons are hidden, so the click comes from the script.
  await page.locator('.pass', { hasText: 'row A seat 1' }).locator('.buttons .button').nth(1).evaluate((button: HTMLElement) => {
    window.print = () => {
      const shown = [...document.querySelectorAll<HTMLElement>('.passes > li')].filter((each) => each.offsetParent !== null);
      document.title = `printed ${shown.map((each) => each.querySelector('h2')?.textContent).join('|')}, ${shown[0]?.querySelector<HTMLElement>('.discounts')?.innerText}`;
    };
    button.click();
  });
  await expect(page).toHaveTitle('printed Spring concert, row A seat 1, −₩1,000 1,000 won off for VIPs');
});
