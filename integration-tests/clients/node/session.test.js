// Tests of the interceptor, against a server in this process: `node --test`.
'use strict';

const assert = require('node:assert');
const { test, before, after, beforeEach } = require('node:test');
const grpc = require('@grpc/grpc-js');
const { eticket } = require('./contract');
const { Session } = require('./session');

const HEADER = 'eticket-consistency-token';
const { ReservationService } = eticket.reservation.v1;
const { QueryService } = eticket.query.v1;

const server = new grpc.Server();
let received;
let sends;
let session;
let reservations;
let views;
let port;

before(async () => {
  // Sends the user as the token, and keeps the tokens that it gets.
  server.addService(ReservationService.service, {
    ReserveTicket: (call, callback) => {
      [received] = call.metadata.get(HEADER);
      const headers = new grpc.Metadata();
      if (sends) {
        headers.set(HEADER, call.request.userId);
      }
      call.sendMetadata(headers);
      callback(null, { reservation: { ticketId: call.request.ticketId } });
    },
  });
  server.addService(QueryService.service, {
    GetTicketView: (call, callback) => {
      [received] = call.metadata.get(HEADER);
      callback(null, {});
    },
    WatchTicketViews: (call) => {
      [received] = call.metadata.get(HEADER);
      call.end();
    },
  });
  port = await new Promise((resolve, reject) => {
    const listening = (error, bound) => (error ? reject(error) : resolve(bound));
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), listening);
  });
});

after(() => server.forceShutdown());

beforeEach(() => {
  sends = true;
  session = new Session();
  const options = { interceptors: [session.interceptor] };
  const connect = (Service) => new Service(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), options);
  [reservations, views] = [connect(ReservationService), connect(QueryService)];
});

const call = (client, method, request) => new Promise((resolve, reject) => {
  client[method](request, (error, response) => (error ? reject(error) : resolve(response)));
});

async function reserve(ticketId, userId) {
  await call(reservations, 'ReserveTicket', { ticketId, userId });
  assert.strictEqual(received, undefined, 'a command sends no tokens');
}

test('reads send the newest token of each ticket', async () => {
  for (const [ticket, token] of [['a', 'a1'], ['b', 'b1'], ['a', 'a2']]) {
    await reserve(ticket, token);
  }
  await call(views, 'GetTicketView', { ticketId: 'a' });
  assert.strictEqual(received, 'b1,a2');
  received = undefined;
  await views.WatchTicketViews({}).toArray();
  assert.strictEqual(received, 'b1,a2');
});

test('the latest 64 tokens are kept', () => {
  for (let number = 0; number < 65; number += 1) {
    session.remember(String(number), `t${number}`);
  }
  assert.strictEqual(session.tokens, Array.from({ length: 64 }, (_, index) => `t${index + 1}`).join(','));
});

test('a server without tokens changes nothing', async () => {
  sends = false;
  await reserve('a', 'a1');
  await call(views, 'GetTicketView', { ticketId: 'a' });
  assert.strictEqual(received, undefined);
});
