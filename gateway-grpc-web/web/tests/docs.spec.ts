// The viewer of the REST interface. As in every test, a request to another host or a breach of the policy is a failure.

import AxeBuilder from '@axe-core/playwright';
import type { Page } from '@playwright/test';

import { expect, test } from './support';

const services = ['TicketService', 'ReservationService', 'PricingService', 'QueryService'];
const folder = process.env.ETICKET_SCREENSHOTS;

/** Opens an operation by its method and path, and returns its block. */
async function opened(page: Page, method: string, path: string) {
  const block = page.locator(`.opblock-${method}`).filter({ has: page.locator(`.opblock-summary-path[data-path="${path}"]`) });
  await block.locator('.opblock-summary-control').click();
  await block.getByRole('button', { name: 'Try it out' }).click();
  return block;
}

async function graveViolations(page: Page) {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const grave = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  return grave.map((each) => `${each.id}: ${each.nodes.map((node) => node.target.join(' ')).slice(0, 5).join(' | ')}`);
}

test('the viewer shows the operations of every service', async ({ page, request }) => {
  const { paths } = (await (await request.get('/openapi.json')).json()) as { paths: Record<string, object> };
  const operations = Object.values(paths).flatMap((path) => Object.keys(path));
  await page.goto('/docs');
  await expect(page).toHaveTitle('REST API · eTicket');
  await expect(page.locator('.opblock')).toHaveCount(operations.length);
  for (const service of services) {
    const section = page.locator('.opblock-tag-section').filter({ has: page.locator(`[data-tag="${service}"]`) });
    await expect(section.locator('.opblock').first()).toBeVisible();
  }
});

test('an operation runs at the gateway that serves the viewer', async ({ page }) => {
  await page.goto('/docs');
  const policy = await opened(page, 'get', '/v1/pricingPolicy');
  await policy.getByRole('button', { name: 'Execute' }).click();
  await expect(policy.locator('.live-responses-table tbody .response-col_status')).toHaveText(/^200/);
  await expect(policy.locator('.live-responses-table')).toContainText('"basePrice"');
  expect(new URL(page.url()).hash, 'the address names the operation').toBe('#/PricingService/PricingService_GetPricingPolicy');
});

test('a watch ends, so that its events are shown', async ({ page }) => {
  await page.goto('/docs');
  const watch = await opened(page, 'get', '/v1/views:watch');
  await watch.getByRole('button', { name: 'Execute' }).click();
  await expect(watch.locator('.live-responses-table')).toContainText('event: error');
  await expect(watch.locator('.curl')).toContainText('x-timeout-ms: 5000', { ignoreCase: true });
});

test('a token is sent with each request, and forgotten with the page', async ({ page }) => {
  const sent = async () => {
    const policy = await opened(page, 'get', '/v1/pricingPolicy');
    const request = page.waitForRequest('**/v1/pricingPolicy');
    await policy.getByRole('button', { name: 'Execute' }).click();
    return (await request).headers().authorization;
  };
  await page.goto('/docs');
  await page.locator('.btn.authorize').click();
  const dialog = page.locator('.dialog-ux');
  await dialog.locator('input').fill('a-token');
  await dialog.locator('input').press('Enter');
  await dialog.getByRole('button', { name: 'Close' }).last().click();
  expect(await sent()).toBe('Bearer a-token');
  await page.goto('/docs/');
  expect(await sent()).toBeUndefined();
});

test('the console and the viewer link to each other', async ({ page }) => {
  await page.goto('/');
  await page.getByRole('link', { name: 'REST API' }).click();
  await expect(page).toHaveTitle('REST API · eTicket');
  const icon = await page.locator('link[rel="icon"]').getAttribute('href');
  await page.getByRole('link', { name: 'Console' }).click();
  await expect(page).toHaveTitle('Tickets · eTicket');
  await expect(page.locator('link[rel="icon"]')).toHaveAttribute('href', icon ?? 'none');
});

for (const [theme, width] of [['light', 1280], ['dark', 390]] as const) {
  test(`the viewer is accessible: ${theme}, ${width} pixels`, async ({ page }) => {
    await page.setViewportSize({ width, height: 900 });
    // The choice made in the console counts, whatever the system prefers.
    await page.emulateMedia({ colorScheme: theme === 'dark' ? 'light' : 'dark', reducedMotion: 'reduce' });
    await page.addInitScript((value) => location.origin !== 'null' && localStorage.setItem('eticket.theme', value), theme);
    await page.goto('/docs');
    const register = await opened(page, 'post', '/v1/tickets');
    await expect(register.getByRole('button', { name: 'Execute' })).toBeVisible();
    await opened(page, 'get', '/v1/tickets');
    const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    expect(ground).toBe(theme === 'dark' ? 'rgb(20, 24, 27)' : 'rgb(244, 243, 238)');
    const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    expect.soft(tooWide, 'the viewer is wider than the window').toBeLessThanOrEqual(0);
    expect.soft(await graveViolations(page), 'axe on operations').toEqual([]);
    if (folder) await page.screenshot({ path: `${folder}/docs-${width}-${theme}.png`, fullPage: true });
    await page.locator('.btn.authorize').click();
    await expect(page.locator('.dialog-ux input')).toBeVisible();
    expect.soft(await graveViolations(page), 'axe on the dialog').toEqual([]);
  });
}
