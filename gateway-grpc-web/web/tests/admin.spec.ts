import { readFile } from 'node:fs/promises';

import { timestampFromMs } from '@bufbuild/protobuf/wkt';

import { expect, query, registered, reserved, test, tickets } from './support';

test('an edit that somebody else has overtaken shows both versions', async ({ page }) => {
  const stamp = Date.now();
  const ticketId = await registered(`Draft ${stamp}`);
  await page.goto(`/#/tickets/${ticketId}`);
  await page.getByRole('button', { name: 'Edit…' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Title').fill(`Mine ${stamp}`);
  await tickets.updateTicket({ ticketId, title: `Theirs ${stamp}`, endTime: timestampFromMs(Date.parse('2031-03-05T16:00:00+09:00')) });
  await dialog.getByRole('button', { name: 'Save' }).click();
  await expect(dialog).toContainText('Somebody else has edited this ticket');
  await expect(dialog.getByRole('row', { name: /^Title/ })).toContainText(`Theirs ${stamp}`);
  await expect(dialog.getByRole('radio', { name: `Mine ${stamp}` })).toBeChecked();
  // What only the other person has changed stays theirs.
  await expect(dialog.getByLabel('End Asia/Seoul')).toHaveValue('2031-03-05T16:00');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText(`Mine ${stamp}`);
  const { ticket } = await tickets.getTicket({ ticketId });
  expect(new Date(Number(ticket?.endTime?.seconds) * 1000).toISOString()).toBe('2031-03-05T07:00:00.000Z');
});

test('a table is checked before it is sent, and may be sent twice', async ({ page }) => {
  const stamp = Date.now();
  const line = (name: string, start: string) => `${name}-${stamp}\tSeat ${name}\t${start}\t2031-04-01 21:00`;
  const table = (start: string) => ['ticket_id\ttitle\tstart_time\tend_time', line('x', '2031-04-01 19:00'), line('y', start)].join('\n');
  await page.goto('/#/register');
  await page.getByRole('tab', { name: 'Many tickets' }).click();
  await page.getByRole('textbox', { name: 'Table' }).fill(table('tomorrow'));
  await expect(page.getByText('The start is not a time.')).toBeVisible();
  await expect(page.getByRole('button', { name: 'Register 1 ticket' })).toBeDisabled();
  for (let round = 0; round < 2; round += 1) {
    await page.getByRole('textbox', { name: 'Table' }).fill('');
    await page.getByRole('textbox', { name: 'Table' }).fill(table('2031-04-01 19:00'));
    await page.getByRole('button', { name: 'Register 2 tickets' }).click();
    await expect(page.locator('tr.registered')).toHaveCount(2);
    await expect(page.getByText('2 are registered.')).toBeVisible();
  }
  const { ticket } = await tickets.getTicket({ ticketId: `x-${stamp}` });
  // 19:00 in the business time zone.
  expect(Number(ticket?.startTime?.seconds)).toBe(Date.parse('2031-04-01T10:00:00Z') / 1000);
});

test('withdrawing what is filtered says who is affected, and does it', async ({ page }) => {
  const word = `bulk${Date.now()}`;
  const ids = [await registered(`One ${word}`), await registered(`Two ${word}`), await registered(`Three ${word}`)];
  await reserved(ids[0] ?? '', 'affected', 2);
  await tickets.withdrawTicket({ ticketId: ids[2] ?? '' });
  await page.goto(`/#/?q=${word}`);
  await expect(page.locator('.ticket .status.withdrawn')).toHaveCount(1);
  await page.getByRole('button', { name: 'Withdraw these…' }).click();
  const dialog = page.getByRole('dialog');
  await expect(dialog.locator('.facts')).toHaveText(/Will be withdrawn\s*2.*held by somebody\s*1.*left as they are\s*1/s);
  await expect(dialog.getByRole('button', { name: 'Withdraw 2 tickets' })).toBeDisabled();
  await dialog.getByLabel('I want to withdraw 2 tickets for good.').check();
  await dialog.getByRole('button', { name: 'Withdraw 2 tickets' }).click();
  await expect(dialog).toContainText('2 of 2');
  await dialog.getByRole('button', { name: 'Close' }).last().click();
  await expect(page.locator('.ticket .status.withdrawn')).toHaveCount(3);
  const { views } = await query.listTicketViews({ filterUserId: 'affected' });
  expect(views.map((view) => view.ticketId)).not.toContain(ids[0]);
});

test('the board keeps filter and order in its address, exports what it shows, and works by keyboard', async ({ page }) => {
  const word = `keys${Date.now()}`;
  const start = Date.parse('2031-05-01T10:00:00+09:00');
  for (let index = 0; index < 3; index += 1) await registered(`=${index} ${word}`, start + index * 86_400_000);
  await page.goto('/');
  await expect(page.locator('.connection')).toHaveText('Live');
  await page.keyboard.press('/');
  await page.keyboard.type(word);
  await expect(page.locator('.ticket')).toHaveCount(3);
  await page.getByRole('columnheader', { name: 'Time' }).getByRole('button').click();
  await expect(page).toHaveURL(new RegExp(`q=${word}&sort=-start`));
  await page.reload();
  await expect(page.locator('.ticket .title a').first()).toHaveText(`=2 ${word}`);

  await page.locator('.ticket .title a').first().focus();
  await page.keyboard.press('ArrowDown');
  await expect(page.locator('.ticket .title a').nth(1)).toBeFocused();
  await page.keyboard.press('End');
  await expect(page.locator('.ticket .title a').nth(2)).toBeFocused();

  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Export CSV' }).click();
  const lines = (await readFile(await (await download).path(), 'utf8')).trim().split(/\r?\n/);
  expect(lines).toHaveLength(4);
  // A spreadsheet must not run a title as a formula.
  expect(lines[1]).toContain(`,'=2 ${word},2031-05-03T01:00:00.000Z,`);
  await page.keyboard.press('Home');

  await page.locator('.ticket .title a').first().focus();
  await page.keyboard.press('Enter');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText(`=2 ${word}`);
  await expect(page.locator('main')).toBeFocused();
});

test('operations: health, compare, rebuild and republish against the running services', async ({ page }) => {
  await page.goto('/#/operations');
  await expect(page.locator('.health .serving')).toHaveCount(5);
  await expect(page.getByText('No service has parked events.')).toBeVisible();
  for (const name of ['Rebuild the view', 'Republish: Ticket', 'Republish: Reservation', 'Republish: Pricing', 'Compare the view']) {
    const task = page.locator('.tasks li', { has: page.getByRole('heading', { name }) });
    await task.getByRole('button').click();
    await expect(task.locator('.outcome .good')).toHaveText(/Finished: [\d,]+\.|compared, no difference\./, { timeout: 60_000 });
  }
});

test('the page starts in the language of the browser, and switches', async ({ browser, baseURL }) => {
  const context = await browser.newContext({ baseURL, locale: 'ko-KR' });
  const page = await context.newPage();
  await page.goto('/#/pricing');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('가격');
  await page.getByLabel('언어').selectOption('en');
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Pricing');
  await page.reload();
  await expect(page.locator('html')).toHaveAttribute('lang', 'en');
  await context.close();
});

test('on a phone the menu works by thumb and by keyboard', async ({ page }) => {
  await page.setViewportSize({ width: 320, height: 640 });
  await page.goto('/');
  const menu = page.getByRole('button', { name: 'Menu' });
  const nav = page.getByRole('navigation', { name: 'Pages' });
  await expect(nav).toBeHidden();
  await menu.click();
  await expect(menu).toHaveAttribute('aria-expanded', 'true');
  for (const name of ['Tickets', 'My reservations', 'Register', 'Pricing', 'Operations', 'REST API']) {
    const box = await nav.getByRole('link', { name }).boundingBox();
    expect(box?.height, `${name} is large enough for a thumb`).toBeGreaterThanOrEqual(44);
  }
  await nav.getByRole('link', { name: 'Pricing' }).click();
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Pricing');
  await expect(nav).toBeHidden();

  await menu.focus();
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Tab');
  await expect(nav.getByRole('link', { name: 'Tickets' })).toBeFocused();
  await page.keyboard.press('Escape');
  await expect(nav).toBeHidden();
  await expect(menu).toBeFocused();
  await menu.click();
  await page.getByRole('heading', { level: 1 }).click();
  await expect(nav).toBeHidden();
});
