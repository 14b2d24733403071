import { WaitFor } from '../src/gen/eticket/query/v1/query_pb';
import { as, expect, query, registered, reservations, reserved, test, tickets } from './support';

const VIP = 3;

test('an admin registers a ticket, and a VIP reserves and cancels it at the price that was shown before', async ({ page }) => {
  const title = `Scenario ${Date.now()}`;
  await as(page, 'scenario-user', VIP);
  await page.goto('/#/register');
  await page.getByLabel('Title').fill(title);
  await page.getByLabel('Start').fill('2031-03-05T12:00');
  await page.getByLabel('End').fill('2031-03-05T14:00');
  await expect(page.locator('.quote')).toContainText('₩8,000');
  await page.getByRole('button', { name: 'Register', exact: true }).click();
  await page.getByRole('status').getByRole('link', { name: title }).click();

  await expect(page.getByRole('heading', { level: 1, name: title })).toBeVisible();
  await expect(page.locator('.pass .stub')).toContainText('₩7,000');
  await page.getByRole('button', { name: 'Reserve', exact: true }).click();
  const dialog = page.getByRole('dialog');
  await expect(dialog).toContainText('1,000 won off for VIPs');
  await dialog.getByRole('button', { name: 'Reserve for ₩7,000' }).click();
  await expect(page.getByText(`Reserved: ${title}.`)).toBeVisible();
  await expect(page.getByText('settled, you pay ₩7,000')).toBeVisible();
  await expect(page.locator('.pass')).toContainText('Reserved');

  await page.getByRole('link', { name: 'My reservations' }).click();
  const pass = page.locator('.pass', { hasText: title });
  await expect(pass).toContainText('₩7,000');
  await pass.getByRole('button', { name: `Cancel reservation ${title}` }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel reservation' }).click();
  await expect(pass).toContainText('Cancelled');
  const { reservations } = await query.listUserReservations({ userId: 'scenario-user', pageSize: 1 });
  expect(reservations[0]?.title).toBe(title);
});

test('the page of a ticket tells its history, and follows it', async ({ page, context }) => {
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  const title = `History ${Date.now()}`;
  const ticketId = await registered(title);
  await page.goto(`/#/tickets/${ticketId}`);
  const history = page.locator('.history');
  const acts = history.locator('.acts > li');
  await expect(acts).toHaveCount(1);
  await expect(acts.first()).toContainText('An admin registered the ticket');
  await expect(acts.first()).toContainText(/Settled [\d.]+ (ms|sec) after the command/);
  await expect(acts.first().locator('.steps li')).toHaveCount(2);
  await expect(acts.first().locator('.steps li').last()).toHaveText(/Pricing service.*The price was computed.*Available.*₩8,000/s);

  // The watch brings what others do.
  const reservationId = await reserved(ticketId, 'history-user', VIP);
  await expect(acts).toHaveCount(2);
  const placed = acts.first();
  await expect(placed).toContainText('history-user reserved the ticket');
  await expect(placed.locator('.steps li').last()).toContainText('₩7,000');
  await expect(placed.locator('.steps').getByText('Reserved').last()).toBeVisible();
  await expect(placed.locator('.times')).toContainText(/KST|GMT\+9/);
  await expect(placed.locator('.times')).toContainText(/CET|GMT\+1/);

  await placed.getByRole('button', { name: /^Copy the correlation id/ }).click();
  await expect(page.getByText('Correlation id copied.')).toBeVisible();
  const { entries } = await query.getTicketHistory({ ticketId });
  expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(entries[0]?.correlationId);

  await reservations.cancelReservation({ reservationId });
  await expect(acts.first()).toContainText('The reservation of history-user was cancelled');
  await tickets.withdrawTicket({ ticketId });
  await expect(history).toContainText('An admin withdrew the ticket');
  await expect(acts.first().locator('.status').last()).toHaveText('Withdrawn');
});

test('a long history comes in pages', async ({ page }) => {
  const ticketId = await registered(`Long ${Date.now()}`);
  // Each act is three events, and a page has fifty.
  for (let round = 0; round < 10; round += 1) {
    const reservationId = await reserved(ticketId, 'long-user', VIP);
    const { consistencyToken } = await reservations.cancelReservation({ reservationId });
    await query.getTicketView({ ticketId, consistencyToken, wait: WaitFor.SETTLED });
  }
  await page.goto(`/#/tickets/${ticketId}`);
  const acts = page.locator('.history .acts > li');
  const more = page.locator('.history').getByRole('button', { name: 'Show more' });
  await more.click();
  await expect(acts).toHaveCount(21);
  await expect(more).toBeHidden();
  await expect(acts.last()).toContainText('An admin registered the ticket');
  // What happens next comes on top, and the older pages stay.
  await reserved(ticketId, 'next-user', VIP);
  await expect(acts).toHaveCount(22);
  await expect(acts.first()).toContainText('next-user reserved the ticket');
});

test('a history that cannot be read says so, and is read again', async ({ page }) => {
  const ticketId = await registered(`Unread ${Date.now()}`);
  let broken = true;
  await page.route('**/*QueryService/GetTicketHistory', (route) => (broken ? route.abort() : route.continue()));
  await page.goto(`/#/tickets/${ticketId}`);
  const problem = page.locator('.history').getByRole('alert');
  await expect(problem).toContainText('The server cannot be reached.');
  broken = false;
  await problem.getByRole('button', { name: 'Try again' }).click();
  await expect(page.locator('.history .acts > li')).toHaveCount(1);
});
