import { as, expect, query, test } from './support';

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
