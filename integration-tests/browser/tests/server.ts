// eTicket as a process that the tests stop and start, and what tests ask it without a browser.

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { randomUUID } from 'node:crypto';

import type { JsonObject } from '@bufbuild/protobuf';

/** Returns a loopback port that is free now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

export class Server {
  #process?: ChildProcess;
  #admin = '';

  private constructor(
    private readonly data: string,
    private readonly port: number,
    /** The origin whose pages may call. */
    private readonly origin: string,
  ) {}

  static async create(origin: string): Promise<Server> {
    return new Server(await mkdtemp(join(tmpdir(), 'eticket-')), await freePort(), origin);
  }

  get gateway() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Starts it with the state and at the address of the time before. */
  async start() {
    const environment = Object.entries(process.env).filter(([name]) => !name.startsWith('ETICKET_'));
    const listen = ['TICKET', 'RESERVATION', 'PRICING', 'QUERY'].map((server) => [`ETICKET__${server}__LISTEN`, '127.0.0.1:0']);
    const started = spawn(process.env.ETICKET_BINARY ?? '', ['--data', this.data], {
      env: {
        ...Object.fromEntries([...environment, ...listen]),
        ETICKET__GATEWAY__LISTEN: `127.0.0.1:${this.port}`,
        ETICKET__GATEWAY__CORS__ALLOWED_ORIGINS: this.origin,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#process = started;
    // If the tests are interrupted, nothing else stops it.
    const kill = () => started.kill('SIGKILL');
    process.once('exit', kill);
    started.once('exit', () => process.off('exit', kill));
    let log = '';
    started.stderr.on('data', (bytes: Buffer) => (log += bytes.toString()));
    for await (const line of createInterface(started.stdout)) {
      const addresses = JSON.parse(line) as { ready?: boolean; admin: string };
      if (!addresses.ready) continue;
      this.#admin = addresses.admin;
      started.stdout.resume();
      return;
    }
    throw new Error(`eticket has ended before it was ready:\n${log}`);
  }

  async stop() {
    const running = this.#process;
    this.#process = undefined;
    if (!running || running.exitCode !== null) return;
    const ended = once(running, 'exit');
    running.kill('SIGTERM');
    const [code] = (await ended) as [number | null];
    if (code !== 0) throw new Error(`eticket has ended with ${code}`);
  }

  async remove() {
    try {
      await this.stop();
    } finally {
      await rm(this.data, { recursive: true, force: true });
    }
  }

  /** Calls a method as a client of its own that is no browser. */
  async call(path: string, request: JsonObject): Promise<JsonObject> {
    const response = await fetch(`${this.gateway}/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'connect-protocol-version': '1' },
      body: JSON.stringify(request),
    });
    const body = (await response.json()) as JsonObject;
    if (!response.ok) throw new Error(`${path}: ${JSON.stringify(body)}`);
    return body;
  }

  async register(ticketId: string) {
    return this.call('eticket.ticket.v1.TicketService/RegisterTicket', registration(ticketId));
  }

  /** Returns the id of the reservation. */
  async reserve(ticketId: string, userId: string): Promise<string> {
    const { reservation } = await this.call('eticket.reservation.v1.ReservationService/ReserveTicket', reserving(ticketId, userId));
    return (reservation as { reservationId: string }).reservationId;
  }

  async cancel(reservationId: string) {
    const request = { reservationId, requestId: randomUUID() };
    return this.call('eticket.reservation.v1.ReservationService/CancelReservation', request);
  }

  /** The sum of the series of a metric that have these labels. */
  async metric(name: string, labels: Record<string, string>): Promise<number> {
    const response = await fetch(`http://${this.#admin}/metrics`);
    const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
    const lines = (await response.text()).split('\n').filter((line) => line.startsWith(`${name}{`));
    const found = lines.filter((line) => wanted.every((label) => line.includes(label)));
    return found.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
  }
}

export function registration(ticketId: string) {
  // A Friday: the default policy gives no discount.
  return { ticketId, title: 'Jazz', startTime: '2099-01-09T10:00:00Z', endTime: '2099-01-09T12:00:00Z', requestId: randomUUID() };
}

export function reserving(ticketId: string, userId: string) {
  return { ticketId, userId, userGrade: 'USER_GRADE_SILVER', requestId: randomUUID() };
}
