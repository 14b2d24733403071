// What users see when the server says no: its words, in their language, and what they can do.

import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { anyPack, timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code } from '@connectrpc/connect';
import { randomUUID } from 'node:crypto';

import { ErrorReason } from '../src/gen/eticket/error/v1/error_pb';
import { ReserveTicketRequestSchema } from '../src/gen/eticket/reservation/v1/reservation_pb';
import { ErrorInfoSchema, LocalizedMessageSchema, RetryInfoSchema } from '../src/gen/google/rpc/error_details_pb';
import { StatusSchema } from '../src/gen/google/rpc/status_pb';
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

/** Makes a call fail as the server does, with a status and details in the headers. */
function refusal(reason: ErrorReason, code: Code, seconds?: number) {
  const name = ErrorReason[reason] ?? '';
  const details = [
    anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason: name, domain: 'eticket' })),
    anyPack(LocalizedMessageSchema, create(LocalizedMessageSchema, { locale: 'en', message: `Words for ${name}.` })),
    ...(seconds ? [anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: { seconds: BigInt(seconds) } }))] : []),
  ];
  const status = toBinary(StatusSchema, create(StatusSchema, { code, details }));
  const headers = { 'grpc-status': String(code), 'grpc-status-details-bin': Buffer.from(status).toString('base64') };
  return { contentType: 'application/grpc-web+proto', headers };
}

test('an overloaded server is tried again after its delay, with the same request id', async ({ page }) => {
  const ticketId = await registered(`Overload ${Date.now()}`);
  await as(page, 'patient-user', SILVER);
  const requestIds: string[] = [];
  await page.route('**/eticket.reservation.v1.ReservationService/ReserveTicket', async (route) => {
    // A gRPC-Web message has five bytes in front.
    const body = route.request().postDataBuffer() ?? Buffer.alloc(5);
    requestIds.push(fromBinary(ReserveTicketRequestSchema, body.subarray(5)).requestId);
    if (requestIds.length > 1) return route.continue();
    await route.fulfill(refusal(ErrorReason.TICKET_SERVICE_OVERLOADED, Code.Unavailable, 2));
  });
  await page.goto(`/#/tickets/${ticketId}`);
  await page.getByRole('button', { name: 'Reserve', exact: true }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByRole('button', { name: /^Reserve for/ }).click();
  await expect(dialog.locator('.problem')).toContainText('Words for TICKET_SERVICE_OVERLOADED.');
  await expect(dialog.locator('.countdown')).toHaveText(/in [12] s/);
  await expect(dialog.getByRole('button', { name: 'Try again' })).toBeDisabled();
  await dialog.getByRole('button', { name: 'Try again' }).click();
  await expect(page.getByText('settled, you pay ₩8,000')).toBeVisible();
  expect(requestIds).toHaveLength(2);
  expect(requestIds[1]).toBe(requestIds[0]);
});

// Every reason of the contract, its code, and the delay after which a retry makes sense.
const reasons: Record<Exclude<keyof typeof ErrorReason, 'UNSPECIFIED'>, [Code, number?]> = {
  TICKET_NOT_FOUND: [Code.NotFound],
  RESERVATION_NOT_FOUND: [Code.NotFound],
  PRICE_NOT_FOUND: [Code.NotFound],
  TICKET_ALREADY_EXISTS: [Code.AlreadyExists],
  TICKET_ALREADY_RESERVED: [Code.FailedPrecondition],
  TICKET_EXPIRED: [Code.FailedPrecondition],
  TICKET_WITHDRAWN: [Code.FailedPrecondition],
  RESERVATION_NOT_ACTIVE: [Code.FailedPrecondition],
  UPSTREAM_NOT_CONFIGURED: [Code.FailedPrecondition],
  INVALID_FIELD: [Code.InvalidArgument],
  REQUEST_ID_REUSED: [Code.InvalidArgument],
  INVALID_PAGE_TOKEN: [Code.InvalidArgument],
  INVALID_CONSISTENCY_TOKEN: [Code.InvalidArgument],
  ETAG_MISMATCH: [Code.Aborted],
  TICKET_SERVICE_OVERLOADED: [Code.Unavailable, 3],
  SERVICE_OVERLOADED: [Code.Unavailable, 1],
  UPSTREAM_UNAVAILABLE: [Code.Unavailable, 2],
  STORE_UNAVAILABLE: [Code.Unavailable, 2],
  SHUTTING_DOWN: [Code.Unavailable, 1],
  TOO_MANY_REQUESTS: [Code.ResourceExhausted, 4],
  DEADLINE_EXCEEDED: [Code.DeadlineExceeded],
  VIEW_NOT_CAUGHT_UP: [Code.DeadlineExceeded],
  TOKEN_MISSING: [Code.Unauthenticated],
  TOKEN_INVALID: [Code.Unauthenticated],
  NOT_ALLOWED: [Code.PermissionDenied],
  NOT_YOUR_RESERVATION: [Code.PermissionDenied],
};

test('each refusal is said in the words of the server, with a retry only where one makes sense', async ({ page }) => {
  const ticketId = await registered(`Refused ${Date.now()}`);
  await as(page, 'refused-user', SILVER);
  let next: [keyof typeof reasons, Code, number?] = ['TICKET_NOT_FOUND', Code.NotFound];
  await page.route('**/eticket.reservation.v1.ReservationService/ReserveTicket', (route) => route.fulfill(refusal(ErrorReason[next[0]], next[1], next[2])));
  for (const [name, [code, seconds]] of Object.entries(reasons) as [keyof typeof reasons, [Code, number?]][]) {
    next = [name, code, seconds];
    await page.goto('about:blank');
    await page.goto(`/#/tickets/${ticketId}`);
    await page.getByRole('button', { name: 'Reserve', exact: true }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('button', { name: /^Reserve for/ }).click();
    if (code === Code.Unauthenticated) {
      // A refused token is not a matter of this dialog.
      await expect(page.getByRole('heading', { level: 1, name: 'Log in' })).toBeVisible();
      continue;
    }
    const problem = dialog.getByRole('alert');
    await expect(problem).toContainText(`Words for ${name}.`);
    await expect(problem.locator('code')).toHaveText(name);
    const again = problem.getByRole('button', { name: 'Try again' });
    const mayRetry = [Code.Unavailable, Code.ResourceExhausted, Code.DeadlineExceeded].includes(code);
    await expect(again).toHaveCount(mayRetry ? 1 : 0);
    if (seconds) await expect(problem.locator('.countdown')).toHaveText(new RegExp(`in [1-${seconds}] s`));
    // The same click cannot be sent again beside the retry.
    await expect(dialog.getByRole('button', { name: /^Reserve for/ })).toBeDisabled();
  }
});
