// What users see when the server says no: its words, in their language, and what they can do.

import { create, toBinary } from '@bufbuild/protobuf';
import { anyPack, timestampFromMs } from '@bufbuild/protobuf/wkt';
import { randomUUID } from 'node:crypto';

import { ReserveTicketRequestSchema } from '../src/gen/eticket/reservation/v1/reservation_pb';
import { ErrorInfoSchema, LocalizedMessageSchema, RetryInfoSchema } from '../src/gen/google/rpc/error_details_pb';
import { StatusSchema } from '../src/gen/google/rpc/status_pb';
import { fromBinary } from '@bufbuild/protobuf';
import { as, expect, query, registered, reservations, reserved, test, tickets } from './support';

const SILVER = 1;

test('two browsers race for one ticket: one holds it, the other is told so', async ({ browser, baseURL, watchdog }) => {
  const ticketId = await registered(`Race ${Date.now()}`);
  const pages = await Promise.all(
    ['first', 'second'].map(async (user) => {
      const context = await browser.newContext({ baseURL });
      await watchdog.watch(context);
      await as(context, `${user}-${ticketId}`, SILVER);
      const page = await context.newPage();
      await page.goto(`/#/tickets/${ticketId}`);
      await page.getByRole('button', { name: 'Reserve', exact: true }).click();
      await expect(page.getByRole('dialog')).toContainText('You pay');
      return page;
    }),
  );
  await Promise.all(pages.map((page) => page.getByRole('dialog').getByRole('button', { name: /^Reserve for/ }).click()));
  const refused = (index: number) => pages[index]!.locator('dialog .problem', { hasText: 'TICKET_ALREADY_RESERVED' });
  await expect.poll(async () => (await refused(0).count()) + (await refused(1).count())).toBe(1);
  const loser = (await refused(0).count()) === 1 ? 0 : 1;
  const winner = ['first', 'second'][1 - loser];
  // Both see the same holder, the loser behind the dialog.
  for (const page of pages) await expect(page.locator('main')).toContainText(`${winner}-${ticketId}`);
  await expect(pages[1 - loser]!.getByRole('dialog')).toHaveCount(0);
  expect((await query.getTicketView({ ticketId })).view?.userId).toBe(`${winner}-${ticketId}`);
  await Promise.all(pages.map((page) => page.context().close()));
});

test('a ticket that is withdrawn or expires under the dialog is refused in Korean', async ({ page }) => {
  await as(page, 'late-user', SILVER);
  await page.addInitScript(() => localStorage.setItem('eticket.language', 'ko'));
  const withdrawn = await registered(`Withdrawn ${Date.now()}`);
  const soon = Date.now() + 4_000;
  const expiring = `t-${randomUUID().slice(0, 13)}`;
  await tickets.registerTicket({ ticketId: expiring, title: 'Expiring', startTime: timestampFromMs(soon - 1000), endTime: timestampFromMs(soon) });
  for (const [ticketId, reason] of [[expiring, 'TICKET_EXPIRED'], [withdrawn, 'TICKET_WITHDRAWN']] as const) {
    await page.goto(`/#/tickets/${ticketId}`);
    await page.locator('.stub .primary').click();
    const dialog = page.getByRole('dialog');
    if (ticketId === withdrawn) await tickets.withdrawTicket({ ticketId });
    await expect(dialog.locator('.note')).toContainText('더 이상 예약할 수 없는 티켓입니다');
    await dialog.locator('.primary').click();
    await expect(dialog.locator('.problem')).toContainText(reason);
    await expect(dialog.locator('.problem p').first()).toHaveText(/[가-힣]/);
    await page.keyboard.press('Escape');
  }
});

test('a reservation that is already cancelled, and an id that is taken', async ({ page }) => {
  const title = `Twice ${Date.now()}`;
  const ticketId = await registered(title);
  const reservationId = await reserved(ticketId, 'twice-user', SILVER);
  await as(page, 'twice-user', SILVER);
  await page.goto('/#/reservations');
  await page.locator('.pass', { hasText: title }).getByRole('button', { name: 'Cancel reservation' }).click();
  await reservations.cancelReservation({ reservationId });
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel reservation' }).click();
  await expect(page.getByRole('dialog')).toContainText('RESERVATION_NOT_ACTIVE');
  await page.keyboard.press('Escape');

  await page.goto('/#/register');
  await page.getByLabel('Title').fill(title);
  await page.getByLabel('Ticket id').fill(ticketId);
  await page.getByLabel('Start').fill('2031-03-05T12:00');
  await page.getByLabel('End').fill('2031-03-05T14:00');
  await page.getByRole('button', { name: 'Register', exact: true }).click();
  await expect(page.locator('main .problem')).toContainText('TICKET_ALREADY_EXISTS');
});

test('an overloaded server is tried again after its delay, with the same request id', async ({ page }) => {
  const ticketId = await registered(`Overload ${Date.now()}`);
  await as(page, 'patient-user', SILVER);
  const requestIds: string[] = [];
  await page.route('**/eticket.reservation.v1.ReservationService/ReserveTicket', async (route) => {
    // A gRPC-Web message has five bytes in front.
    const body = route.request().postDataBuffer() ?? Buffer.alloc(5);
    requestIds.push(fromBinary(ReserveTicketRequestSchema, body.subarray(5)).requestId);
    if (requestIds.length > 1) return route.continue();
    const details = [
      anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason: 'TICKET_SERVICE_OVERLOADED', domain: 'eticket' })),
      anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: { seconds: 2n } })),
      anyPack(LocalizedMessageSchema, create(LocalizedMessageSchema, { locale: 'en', message: 'Too busy. Try again shortly.' })),
    ];
    const status = toBinary(StatusSchema, create(StatusSchema, { code: 14, details }));
    const headers = { 'grpc-status': '14', 'grpc-status-details-bin': Buffer.from(status).toString('base64') };
    await route.fulfill({ contentType: 'application/grpc-web+proto', headers });
  });
  await page.goto(`/#/tickets/${ticketId}`);
  await page.getByRole('button', { name: 'Reserve', exact: true }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByRole('button', { name: /^Reserve for/ }).click();
  await expect(dialog.locator('.problem')).toContainText('Too busy. Try again shortly.');
  await expect(dialog.locator('.countdown')).toHaveText(/in [12] s/);
  await expect(dialog.getByRole('button', { name: 'Try again' })).toBeDisabled();
  await dialog.getByRole('button', { name: 'Try again' }).click();
  await expect(page.getByText('settled, you pay ₩8,000')).toBeVisible();
  expect(requestIds).toHaveLength(2);
  expect(requestIds[1]).toBe(requestIds[0]);
});
